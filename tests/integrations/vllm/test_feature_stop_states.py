"""A stop finds its request in whatever state it is in; the test speaks in the monitor's place, so
that it is heard in exactly that state.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from engine_run import Inbox
from live_engine import V2, Answer, Ask, drive, scheduler_of
from tiny_models import Models
from watched_engine import WatchedEngine, watched_engine

from saeguard.monitor.control import ControlChannel
from saeguard.monitor.messages import Stop

pytestmark = pytest.mark.server

PROMPTS = [np.random.default_rng(i).integers(4, 256, 40).tolist() for i in range(5)]
STOPPED, ENDED = ("stop", "saeguard:r"), ("length", None)
Find = Callable[[Any, int, dict[str, Answer]], list[str]]


@dataclass
class Stopping:
    """What came of it."""

    answers: dict[str, Answer]
    states: list[str]
    """vLLM's name of the state of each stopped request, when its stop was sent."""
    usage: float
    """Which part of the KV cache is in use at the end."""

    @property
    def ends(self) -> dict[str, tuple[Any, Any]]:
        return {
            name: (answer.finish_reasons[0], answer.stop_reasons[0])
            for name, answer in self.answers.items()
        }


@pytest.fixture(scope="module", params=["v1", "v2_async"])
def engine(
    request: pytest.FixtureRequest, models: Models, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WatchedEngine]:
    work = tmp_path_factory.mktemp("stop")
    (work / "run").mkdir(mode=0o700)
    inbox = Inbox(work / "run")
    is_v2 = request.param == "v2_async"
    with watched_engine(
        work, models.base, V2 if is_v2 else {}, {"start_monitor": False, "run_dir": "run"},
        is_async=is_v2, max_num_seqs=4, block_size=32, num_gpu_blocks_override=9,
        enable_prefix_caching=False,
    ) as engine:  # fmt: skip
        yield engine
    inbox.close()


def drive_and_stop(llm: Any, control: str, asks: Sequence[Ask], find: Find) -> Stopping:
    """Stop what `find` returns before each step: ids of vLLM's."""
    scheduler = scheduler_of(llm)
    states = []
    channel = ControlChannel(control)
    time.sleep(1.5)  # until the engine, which tries every second, has connected

    def at_step(step: int, answers: dict[str, Answer]) -> None:
        for req_id in find(scheduler, step, answers):
            request = scheduler.requests.get(req_id)
            states.append(request.status.name if request else "UNKNOWN")
            channel.send(Stop(req_id, "r", "high", "an-alert"))
            time.sleep(0.05)  # until it has arrived

    try:
        answers = drive(llm, asks, at_step)
    finally:
        channel.close()
    return Stopping(answers, states, scheduler.kv_cache_manager.usage)


def stop(engine: WatchedEngine, asks: Sequence[Ask], find: Find) -> Stopping:
    control = f"ipc://{engine.directory / 'run' / 'control'}"
    stopping: Stopping = engine.engine.call(drive_and_stop, control, asks, find)
    assert stopping.usage == 0
    return stopping


def crowd(max_tokens: int) -> list[Ask]:
    return [Ask(f"r{i}", prompt, max_tokens) for i, prompt in enumerate(PROMPTS)]


def test_one_that_runs(engine: WatchedEngine):
    asks = crowd(20)[:3]
    alone = engine.engine.drive(asks)
    done = stop(engine, asks, lambda _, step, a: [a["r1"].req_id] if step == 8 else [])
    assert done.states == ["RUNNING"]
    assert done.ends == {"r0": ENDED, "r1": STOPPED, "r2": ENDED}
    (kept,) = done.answers["r1"].token_ids
    assert 5 <= len(kept) <= 8
    assert kept == alone["r1"].token_ids[0][: len(kept)]
    for name in ("r0", "r2"):
        assert done.answers[name].token_ids == alone[name].token_ids


def test_one_that_waits(engine: WatchedEngine):
    done = stop(engine, crowd(12), lambda _, step, a: [a["r4"].req_id] if step == 3 else [])
    assert done.states == ["WAITING"]
    assert done.ends == dict.fromkeys(["r0", "r1", "r2", "r3"], ENDED) | {"r4": STOPPED}
    assert done.answers["r4"].token_ids == [[]]


def find_preempted(scheduler: Any, step: int, answers: dict[str, Answer]) -> list[str]:
    requests = scheduler.requests.values()
    return [r.request_id for r in requests if r.status.name == "PREEMPTED"][:1]


def test_one_that_is_preempted(engine: WatchedEngine):
    done = stop(engine, crowd(60)[:4], find_preempted)
    assert done.states
    assert set(done.states) == {"PREEMPTED"}
    assert sorted(done.ends.values(), key=str).count(STOPPED) == len(done.states)
    for answer in done.answers.values():
        assert (answer.finish_reasons == ["length"]) == (len(answer.token_ids[0]) == 60)


def test_what_is_unknown_stopped_twice_or_over_does_no_harm(engine: WatchedEngine):
    def find(_: Any, step: int, answers: dict[str, Answer]) -> list[str]:
        first = answers["r0"].req_id
        return {2: ["nobody"], 4: [first, first], 6: [first], 9: [first]}.get(step, [])

    asks = crowd(12)[:2]
    done = stop(engine, asks, find)
    assert done.states[:2] == ["UNKNOWN", "RUNNING"]
    assert done.ends == {"r0": STOPPED, "r1": ENDED}
    assert len(done.answers["r1"].token_ids[0]) == 12
