"""What goes wrong while a real engine serves: it goes on, and what was not seen is counted."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import numpy as np
import psutil
import pytest
from live_engine import Answer, Ask, drive
from running_monitor import is_monitor, wait_for
from tiny_models import Models
from watched_engine import WatchedEngine

pytestmark = pytest.mark.server

PROMPT = np.random.default_rng(3).integers(4, 256, 10).tolist()


def monitor_of(llm: Any) -> Any:
    """The worker's side of saeguard. Runs in the engine's process."""
    return llm.llm_engine.engine_core.engine_core.model_executor.driver_worker.worker.saeguard


def serve_with_fault(llm: Any, asks: list[Ask], at_step: int) -> tuple[dict[str, Answer], int]:
    """From that step on, no step can be read; how often that was tried."""
    monitor, num_tries = monitor_of(llm), 0

    def fail(*_: Any) -> None:
        nonlocal num_tries
        num_tries += 1
        raise KeyError("a fault of ours")

    def break_it(step: int, _: dict[str, Answer]) -> None:
        if step == at_step:
            monitor.healthy_view, monitor._view = monitor._view, fail

    return drive(llm, asks, break_it), num_tries


def mend(llm: Any) -> None:
    """As a worker that has been started again."""
    monitor = monitor_of(llm)
    monitor._view, monitor._sends = monitor.healthy_view, True
    monitor.report(True)


def taps_alive(watched: WatchedEngine) -> float | None:
    values = [m.value for m in watched.receiver.metrics if m.name == "saeguard.taps.alive"]
    return values[-1] if values else None


def test_a_worker_that_fails_to_read_a_step_reads_no_other_and_says_so_once(
    watched: WatchedEngine, models: Models
):
    asks = [Ask("broken-1", PROMPT, 12), Ask("broken-2", PROMPT, 12, at_step=8)]
    alone = watched.engine.drive([Ask("whole", PROMPT, 12)])["whole"]
    answers, num_tries = watched.engine.call(serve_with_fault, asks, 5)
    try:
        records = [watched.record(answers[ask.id].req_id) for ask in asks]
        (alert,) = health_alerts(watched)
        wait_for(lambda: taps_alive(watched) == 0)
    finally:
        watched.engine.call(mend)
    assert num_tries == 1
    assert "a fault of ours" in alert.message
    assert all(answers[ask.id].token_ids == alone.token_ids for ask in asks)
    for record in records:
        assert set(record.coverage.unseen) == {"blind"}
        assert record.coverage.observed + record.coverage.num_unseen == record.coverage.scheduled
    assert [record.coverage.observed > 0 for record in records] == [True, False]
    wait_for(lambda: taps_alive(watched) == 1)
    answer = watched.engine.drive([Ask("mended", PROMPT, 12)])["mended"]
    watched.assert_exact(models.base, PROMPT, answer)


def health_alerts(watched: WatchedEngine) -> list[Any]:
    wait_for(lambda: any(alert.kind == "health" for alert in watched.alerts("")))
    return [alert for alert in watched.alerts("") if alert.kind == "health"]


@pytest.fixture
def stopped_monitor(watched: WatchedEngine) -> Iterator[int]:
    """One that takes nothing in until it is let go on."""
    (pid,) = [
        child.pid
        for child in psutil.Process(watched.engine._process.pid).children(recursive=True)
        if is_monitor(child)
    ]
    os.kill(pid, signal.SIGSTOP)
    yield pid
    os.kill(pid, signal.SIGCONT)


def serve_until_full(llm: Any, prompt: list[int]) -> tuple[dict[str, Answer], int]:
    """Until frames are dropped, and for a while after that, with a small queue."""
    import zmq

    from saeguard.integrations.vllm.outbox import DirectOutbox

    monitor = monitor_of(llm)
    outbox, answers = monitor._outbox, {}
    endpoint = outbox._socket.getsockopt(zmq.LAST_ENDPOINT).rstrip(b"\0").decode()
    monitor._outbox = small = DirectOutbox(endpoint, max_pending=16)
    for number in range(200):
        if small.num_dropped > 50:
            break
        answers |= drive(llm, [Ask(f"full-{number}-{i}", prompt, 60) for i in range(4)])
    monitor._outbox = outbox
    small.close()
    return answers, small.num_dropped


def test_a_monitor_that_takes_nothing_in_holds_nothing_up_and_every_lost_row_is_counted(
    watched: WatchedEngine, stopped_monitor: int, request: pytest.FixtureRequest, models: Models
):
    if request.node.callspec.params["watched"].startswith("v2"):
        pytest.skip("the same code as with V1, and too slow under Triton's interpreter")
    answers, num_dropped = watched.engine.call(serve_until_full, PROMPT)
    assert num_dropped > 50
    os.kill(stopped_monitor, signal.SIGCONT)
    records = [watched.record(answer.req_id) for answer in answers.values()]
    for record in records:
        coverage = record.coverage
        assert set(coverage.unseen) <= {"dropped_frame"}
        assert coverage.observed + coverage.num_unseen == coverage.scheduled
    assert sum(record.coverage.num_unseen for record in records) >= num_dropped
    answer = watched.engine.drive([Ask("after", PROMPT)])["after"]
    watched.assert_exact(models.base, PROMPT, answer)
