"""Merging steps loses nothing and joins only what belongs together."""

from __future__ import annotations

import msgspec
import numpy as np
from fake_engine import frame_message

from saeguard.monitor.merge import Step, merged


def step(number: int, positions: dict[str, int], **fields: object) -> Step:
    rows = {name: (position, [[position, number]]) for name, position in positions.items()}
    return frame_message(rows, number, "w", **fields)


def test_decode_steps_of_the_same_requests_become_one_frame_ordered_by_request():
    steps = [step(i, {"a": 10 + i, "b": 20 + i}) for i in range(3)]
    ((frame, arrays),) = merged(steps)
    assert frame.row_starts == [0, 3, 6]
    assert arrays.positions.tolist() == [10, 11, 12, 20, 21, 22]
    assert arrays.scores.tolist()[3:] == [[20, 0], [21, 1], [22, 2]]
    assert arrays.token_ids.tolist() == [110, 111, 112, 120, 121, 122]
    assert frame.time_ns == steps[0][0].time_ns
    assert frame.tap_calls == steps[-1][0].tap_calls


def test_a_change_of_the_batch_a_gap_or_a_dead_tap_ends_a_run():
    steps = [
        step(1, {"a": 1}),
        step(2, {"a": 2, "b": 1}),  # another batch
        step(3, {"a": 3, "b": 2}),
        step(4, {"a": 5, "b": 3}),  # a lost frame
        step(5, {"a": 6, "b": 4}, tap_calls=[4]),  # the tap did not run
    ]
    assert [frame.row_starts[-1] for frame, _ in merged(steps)] == [1, 4, 2, 2]


def test_a_prefill_stays_as_it_is():
    prefill = frame_message({"a": (0, [[1, 2], [3, 4]])}, 1, "w")
    assert [frame.step for frame, _ in merged([prefill, step(2, {"a": 2})])] == [1, 2]


def test_no_row_is_lost_or_made_up():
    rng = np.random.default_rng(0)
    steps = [step(i, {n: i for n in ("a", "b", "c")[: rng.integers(1, 4)]}) for i in range(100)]
    before = sum(len(arrays.positions) for _, arrays in steps)
    assert sum(len(arrays.positions) for _, arrays in merged(steps)) == before


def test_a_step_with_another_number_of_taps_stays_apart():
    steps = [step(1, {"a": 1}), step(2, {"a": 2}, tap_calls=[2, 2])]
    assert list(merged(steps)) == steps


def test_steps_of_two_engines_are_merged_as_if_they_had_come_apart():
    first, second = (
        [(msgspec.structs.replace(frame, worker=worker), rows) for frame, rows in steps]
        for worker, steps in enumerate(
            [[step(i, {"a": i}) for i in range(3)], [step(i, {"b": 7 + i}) for i in range(3)]]
        )
    )
    mixed = [each for pair in zip(second, first, strict=True) for each in pair]
    found = list(merged(mixed))
    assert [(frame.worker, frame.req_ids) for frame, _ in found] == [(0, ["a"]), (1, ["b"])]
    assert [rows.positions.tolist() for _, rows in found] == [[0, 1, 2], [7, 8, 9]]
