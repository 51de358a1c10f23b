"""Rows of speculated tokens are evaluated if, and only if, the model kept the tokens."""

from __future__ import annotations

import numpy as np
import pytest
from fake_engine import frame_message

from saeguard.monitor.drafts import DraftHold
from saeguard.monitor.messages import Frame, FrameArrays

REJECTED = -7.0


def step(number: int, num_drafts: dict[str, int], **rows) -> tuple[Frame, FrameArrays]:
    """Rows are (first position, scores of the first feature)."""
    full = {name: (first, [[x, 0.0] for x in scores]) for name, (first, scores) in rows.items()}
    drafts = [num_drafts.get(name, 0) for name in rows] if num_drafts else []
    return frame_message(full, number, "w", num_drafts=drafts)


def scores_of(settled: tuple) -> dict[str, list[float]]:
    frame, rows, _ = settled
    starts = zip(frame.req_ids, frame.row_starts, frame.row_starts[1:], strict=False)
    return {name: rows.scores[a:b, 0].tolist() for name, a, b in starts}


def test_a_frame_without_drafts_passes_as_it_is():
    frame, rows = step(1, {}, a=(0, [1.0, 2.0]))
    assert DraftHold().settle(frame, rows) == (frame, rows, {})


def test_a_kept_draft_comes_before_the_rows_that_confirm_it():
    hold = DraftHold()
    assert scores_of(hold.settle(*step(1, {"a": 2}, a=(5, [5.0, 6.0, 7.0])))) == {"a": [5.0]}
    settled = hold.settle(*step(2, {}, a=(7, [7.5])))
    assert scores_of(settled) == {"a": [6.0, 7.5]}
    assert settled[2] == {"a": 1}


def test_drafts_are_settled_at_the_end_by_the_number_of_tokens():
    hold = DraftHold()
    hold.settle(*step(1, {"a": 3}, a=(5, [5.0, 6.0, 7.0, 8.0])))
    kept, num_rejected = hold.end("a", num_tokens=7)
    assert (kept.positions.tolist(), num_rejected) == ([6], 2)
    assert hold.end("a", num_tokens=7) == (None, 0)


def test_recomputing_from_the_start_takes_every_draft_back():
    hold = DraftHold()
    hold.settle(*step(1, {"a": 1}, a=(5, [5.0, 6.0])))
    settled = hold.settle(*step(2, {}, a=(0, [0.0] * 6)))
    assert len(settled[1].positions) == 6
    assert settled[2] == {"a": 1}


@pytest.mark.parametrize("seed", range(30))
def test_what_comes_out_is_the_accepted_text(seed: int):
    """Three requests, random drafts, a random part of each accepted."""
    rng = np.random.default_rng(seed)
    hold = DraftHold()
    next_position = dict.fromkeys("abc", 0)
    seen: dict[str, list[tuple[int, float]]] = {name: [] for name in "abc"}
    num_sent = num_rejected = 0
    for number in range(1, 40):
        members = [name for name in "abc" if rng.random() < 0.8]
        if not members:
            continue
        rows, drafts = {}, {}
        for name in members:
            first, count = next_position[name], int(rng.integers(0, 4))
            num_accepted = int(rng.integers(0, count + 1))
            scores = [float(first + i) if i <= num_accepted else REJECTED for i in range(count + 1)]
            rows[name], drafts[name] = (first, scores), count
            next_position[name] = first + 1 + num_accepted
            num_sent += count + 1
        frame, arrays, rejected = hold.settle(*step(number, drafts, **rows))
        num_rejected += sum(rejected.values())
        for name, a, b in zip(frame.req_ids, frame.row_starts, frame.row_starts[1:], strict=False):
            seen[name] += zip(
                arrays.positions[a:b].tolist(), arrays.scores[a:b, 0].tolist(), strict=True
            )
    for name in "abc":
        kept, num_late = hold.end(name, next_position[name])
        num_rejected += num_late
        if kept is not None:
            seen[name] += zip(kept.positions.tolist(), kept.scores[:, 0].tolist(), strict=True)
        assert seen[name] == [(i, float(i)) for i in range(next_position[name])]
    assert num_sent == num_rejected + sum(next_position.values())
