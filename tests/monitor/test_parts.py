"""Parts of frames become whole ones or nothing, in whatever order the stages of a pipeline send."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import msgspec
import numpy as np
import pytest
from fake_engine import frame_message
from running_monitor import LIE, QUIET, running_monitor, wait_for

from saeguard.monitor.alerts import Coverage
from saeguard.monitor.messages import FrameArrays, Part
from saeguard.monitor.parts import PartJoiner, Step
from saeguard.monitor.store import get_request
from saeguard.monitor.watchlist import load

WATCHLIST = "a" * 64
COLUMNS = ([0, 3], [1], [2])  # of three stages: what they watch need not lie side by side
NUM_COLUMNS = 4


def part_of(
    step: int, stage: int, engine: int = 0, first: int | None = None, **fields: object
) -> Step:
    """What a stage sends of two requests' rows; every score says where and what it is of."""
    first = 2 * step if first is None else first
    rows = {"a": (first, [[0.0]] * 2), "b": (first, [[0.0]])}
    frame, arrays = frame_message(rows, step, WATCHLIST, ("deceit",))
    scores = score(arrays.positions[:, None], np.array(COLUMNS[stage]))
    frame = msgspec.structs.replace(
        frame,
        worker=10 * engine + stage,
        num_features=len(COLUMNS[stage]),
        tap_calls=[100 * stage + step] * len(COLUMNS[stage]),
        part=Part(engine, 3, COLUMNS[stage]),
        **fields,
    )
    return frame, FrameArrays(scores.astype(np.float32), arrays.token_ids, arrays.positions)


def score(positions: np.ndarray, columns: np.ndarray) -> np.ndarray:
    return 1000.0 * columns + positions


def feed(joiner: PartJoiner, *parts: Step, now_s: float = 0.0) -> list[Step]:
    return [whole for part in parts for whole in joiner.add(*part, now_s)]


def steps(whole: list[Step]) -> list[int]:
    for frame, arrays in whole:
        assert frame.part is None
        assert frame.num_features == NUM_COLUMNS
        expected = score(arrays.positions[:, None], np.arange(NUM_COLUMNS))
        np.testing.assert_array_equal(arrays.scores, expected)
        np.testing.assert_array_equal(arrays.token_ids, 100 + arrays.positions)
    return [frame.step for frame, _ in whole]


@pytest.mark.parametrize("order", itertools.permutations(range(3)))
def test_a_step_is_whole_once_its_last_part_is_there(order: tuple[int, ...]):
    joiner = PartJoiner()
    *first, last = (part_of(7, stage) for stage in order)
    assert feed(joiner, *first) == []
    whole = feed(joiner, last)
    assert steps(whole) == [7]
    frame, _ = whole[0]
    assert (frame.worker, frame.watchlist) == (0, WATCHLIST)
    assert frame.tap_calls == [7, 7, 107, 207]
    assert frame.req_ids == ["a", "b"]


def test_a_frame_that_was_never_divided_passes():
    frame, arrays = frame_message({"a": (0, [[1.0, 2.0]])}, 3, WATCHLIST)
    assert PartJoiner().add(frame, arrays, 0.0) == [(frame, arrays)]


@pytest.mark.parametrize("seed", range(50))
def test_whatever_is_late_or_lost_every_whole_step_comes_once_and_in_order(seed: int):
    """Each stage's own parts arrive in their order, as from one process."""
    rng = random.Random(seed)
    lost = {(rng.randrange(1, 40), rng.randrange(3)) for _ in range(rng.randrange(8))}
    queues = [
        [part_of(n, stage) for n in range(40) if (n, stage) not in lost] for stage in range(3)
    ]
    joiner = PartJoiner()
    got: list[Step] = []
    while any(queues):
        queue = rng.choice([queue for queue in queues if queue])
        for _ in range(min(len(queue), rng.randrange(1, 6))):
            got += feed(joiner, queue.pop(0))
    got += joiner.give_up(float("inf"))
    assert steps(got) == [n for n in range(40) if all((n, stage) not in lost for stage in range(3))]
    lost_steps = {step for step, _ in lost}
    for frame, _ in got:
        assert frame.dropped_frames == sum(step < frame.step for step in lost_steps)


def test_a_lost_part_is_noticed_with_the_next_of_its_stage():
    joiner = PartJoiner()
    feed(joiner, *(part_of(1, stage) for stage in range(3)))
    assert feed(joiner, part_of(2, 0), part_of(2, 2), part_of(3, 0), part_of(3, 2)) == []
    whole = feed(joiner, part_of(3, 1))
    assert steps(whole) == [3]
    assert whole[0][0].dropped_frames == 1


def test_a_repeated_part_makes_no_second_frame():
    joiner = PartJoiner()
    parts = [part_of(1, stage) for stage in range(3)]
    whole = feed(joiner, parts[0], parts[0], parts[1], parts[1], parts[2], *parts)
    assert steps(whole) == [1]
    assert joiner._pipelines[0].num_waiting_bytes == 0
    assert joiner.give_up(float("inf")) == []
    assert steps(feed(joiner, *(part_of(2, stage) for stage in range(3)))) == [2]


def test_parts_that_do_not_fit_together_are_never_joined():
    joiner = PartJoiner()
    others = [
        part_of(1, 1, first=99),
        part_of(2, 1, req_ids=["a", "c"]),
        part_of(3, 1, row_starts=[0, 1, 3]),
        part_of(4, 1),
    ]
    for n, other in enumerate(others, start=1):
        whole = feed(joiner, part_of(n, 0), other, part_of(n, 2))
        assert steps(whole) == [4] * (n == 4)
    assert whole[0][0].dropped_frames == 3


def test_what_waits_in_vain_is_given_up_after_a_time_and_may_come_no_more():
    joiner = PartJoiner(patience_s=30.0)
    feed(joiner, part_of(1, 0), part_of(1, 1))
    feed(joiner, part_of(2, 0), part_of(2, 1), now_s=20.0)
    assert joiner.give_up(31.0) == []
    assert feed(joiner, part_of(1, 2), now_s=32.0) == []
    assert steps(feed(joiner, part_of(2, 2), now_s=33.0)) == [2]


def test_what_waits_is_bounded():
    joiner = PartJoiner()
    feed(joiner, part_of(0, 0), part_of(0, 1))
    size = joiner._pipelines[0].num_waiting_bytes
    joiner = PartJoiner(max_waiting_bytes=10 * size)
    for n in range(1000):
        assert feed(joiner, part_of(n, 0), part_of(n, 1)) == []
    pipeline = joiner._pipelines[0]
    assert pipeline.num_waiting_bytes == 10 * size
    assert len(pipeline._waiting) == 10
    whole = feed(joiner, *(part_of(n, 2) for n in range(1000)))
    assert steps(whole) == list(range(990, 1000))
    assert pipeline.num_waiting_bytes == 0


def test_the_steps_of_one_engine_are_not_those_of_another():
    joiner = PartJoiner()
    assert feed(joiner, part_of(1, 0, 0), part_of(1, 1, 1), part_of(1, 2, 0)) == []
    assert steps(feed(joiner, part_of(1, 0, 1), part_of(1, 2, 1))) == [1]
    whole = feed(joiner, part_of(1, 1, 0))
    assert [frame.worker for frame, _ in whole] == [0]


def test_an_engine_that_starts_anew_begins_with_its_first_step():
    joiner = PartJoiner()
    feed(joiner, *(part_of(500, stage) for stage in range(3)), part_of(501, 0))
    for worker in range(3):
        joiner.forget_worker(worker)
    whole = feed(joiner, *(part_of(n, stage, first=9) for stage in range(3) for n in (1, 2)))
    assert steps(whole) == [1, 2]


def test_a_step_in_which_the_stages_watch_with_two_watchlists_is_of_neither():
    joiner = PartJoiner()
    new = "b" * 64
    whole = feed(
        joiner,
        *(part_of(1, stage) for stage in range(3)),
        *(part_of(2, stage, watchlist=new if stage else WATCHLIST) for stage in range(3)),
        *(part_of(3, stage, watchlist=new) for stage in range(3)),
    )
    assert [frame.watchlist for frame, _ in whole] == [WATCHLIST, "", new]


def test_a_monitor_that_comes_in_the_middle_joins_from_there():
    joiner = PartJoiner()
    assert steps(feed(joiner, part_of(71, 2), part_of(72, 0), part_of(72, 1), part_of(72, 2))) == [
        72
    ]


def test_rules_see_whole_steps_and_the_rows_of_others_are_counted(tmp_path: Path):
    """The request has ended when the last part of its last step comes; of one between a part is
    lost.
    """
    with running_monitor(tmp_path) as monitor:
        watchlist = load(tmp_path / "watch.safetensors")

        def send(step: int, worker: int, rows: list[list[float]]) -> None:
            columns = watchlist.columns[worker : worker + 1]
            frame, arrays = frame_message(
                {"a-1": (2 * step, rows)}, step, watchlist.digest, columns,
                part=Part(0, 2, [worker]),
            )  # fmt: skip
            monitor.engine.send(msgspec.structs.replace(frame, worker=worker), arrays)

        monitor.engine.start("a-1", [1, 2])
        for step, worker, row in ((0, 0, QUIET), (0, 1, QUIET), (1, 0, LIE), (2, 0, LIE)):
            send(step, worker, [row, row])
        monitor.engine.end("a-1", num_scheduled=6)
        assert not monitor.alerts()
        send(2, 1, [LIE, LIE])
        wait_for(lambda: monitor.total("requests/finished") == 1)
        (alert,) = monitor.alerts()
        assert alert.position == 4
        record = get_request(monitor.store, "a-1")
        assert record is not None
        assert record.coverage == Coverage(6, 4, 0, {"dropped_frame": 2})
