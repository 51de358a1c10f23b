"""Requests whose end the monitor does not hear of are reaped; those whose end it heard and could
not store are told again, and counted once.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_engine import end_message, frame_message, start_message, write_rules
from running_monitor import LIE, QUIET, Monitor, running_monitor, start_process, wait_for

from saeguard.monitor.detector import GRACE_S, Detector
from saeguard.monitor.messages import Running
from saeguard.monitor.requests import END_LOST
from saeguard.monitor.store import get_request
from saeguard.monitor.tokens import TokenTexts
from saeguard.rules import Engine, load_rules

NO_TEXTS = TokenTexts(None, captured=False)


@pytest.fixture
def detector(tmp_path: Path) -> Detector:
    ruleset = load_rules([write_rules(tmp_path)])
    return Detector(Engine(ruleset, ["deceit", "calm"]), "w", num_features=2, record_tokens=16)


def finished(detector: Detector, now_s: float) -> dict[str, str]:
    return {r.start.req_id: r.end.reason for r in detector.finished(now_s) if r.end}


def test_what_its_engine_does_not_know_any_more_is_reaped_with_its_last_rows(detector: Detector):
    for req_id in ("gone", "runs"):
        detector.start(start_message(req_id, [1, 2]), NO_TEXTS)
    detector.start(start_message("elsewhere", [1, 2], engine=1), NO_TEXTS)
    rows = {"gone": (0, [QUIET] * 2), "runs": (0, [QUIET] * 2)}
    detector.observe(*frame_message(rows, 1, "w"), 0.0)
    detector.reap(Running(0, ["runs"]), 10.0)
    detector.observe(*frame_message({"gone": (2, [LIE])}, 2, "w"), 10.0)
    assert finished(detector, 10.0 + GRACE_S - 0.1) == {}
    (request,) = detector.finished(10.0 + GRACE_S)
    assert (request.start.req_id, request.end.reason) == ("gone", END_LOST)
    coverage = request.coverage()
    assert (coverage.scheduled, coverage.observed, coverage.unseen) == (3, 3, {})
    assert detector.num_live == 2


def test_an_end_that_was_heard_in_time_is_believed(detector: Detector):
    detector.start(start_message("a", [1, 2]), NO_TEXTS)
    detector.end(end_message("a", num_scheduled=2), 0.0)
    detector.reap(Running(0, []), 1.0)
    assert finished(detector, GRACE_S) == {"a": "stopped"}


@pytest.fixture
def monitor(tmp_path: Path) -> Iterator[Monitor]:
    with running_monitor(tmp_path) as monitor:
        yield monitor


def test_a_lost_end_is_in_the_record_and_the_metrics(monitor: Monitor):
    monitor.engine.start("lost-1", [1, 2])
    monitor.engine.step({"lost-1": (0, [QUIET, QUIET])})
    monitor.engine.send(Running(0, [], num_dropped=4))
    wait_for(lambda: monitor.metric("saeguard.requests.end_lost") == 1, 60)
    wait_for(lambda: monitor.metric("saeguard.messages.dropped") == 4, 60)
    wait_for(lambda: monitor.metric("saeguard.requests.live") == 0, 60)
    wait_for(lambda: monitor.total("requests/end_lost") == 1, 60)
    record = get_request(monitor.store, "lost-1")
    assert record is not None
    assert (record.reason, record.coverage.observed) == (END_LOST, 2)


def test_what_a_killed_monitor_had_stored_is_not_entered_again_and_what_it_had_not_is(
    monitor: Monitor, tmp_path: Path
):
    monitor.lie_once("stored-1")
    monitor.engine.start("quiet-1", [1, 2])
    monitor.engine.step({"quiet-1": (0, [QUIET, QUIET])})
    monitor.engine.end("quiet-1", num_scheduled=2)
    wait_for(lambda: monitor.total("requests/finished") == 2, 60)
    monitor.process.kill()
    monitor.process.communicate()
    (tmp_path / "run" / "ready").unlink()
    monitor.process = start_process(tmp_path / "saeguard.yaml", tmp_path / "run")
    wait_for((tmp_path / "run" / "ready").exists, 60)
    for req_id, num_rows in (("stored-1", 3), ("quiet-1", 2), ("unstored-1", 4), ("unstored-1", 4)):
        monitor.engine.end(req_id, num_scheduled=num_rows)
        monitor.engine.start(req_id, [1, 2], num_before=num_rows, has_ended=True, clock_ns=1)
    wait_for(lambda: monitor.total("requests/finished") == 3, 60)
    monitor.lie_once("last-1")
    wait_for(lambda: monitor.total("requests/finished") == 4, 60)
    assert monitor.total("tokens/unseen/monitor_down") == 4
    assert monitor.total("tokens/scheduled") == 3 + 2 + 4 + 3
    record = get_request(monitor.store, "stored-1")
    assert record is not None
    assert record.coverage.complete
