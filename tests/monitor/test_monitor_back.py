"""A monitor that has come back is told again of the requests that run: what was computed before is
in their accounts as `monitor_down`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_engine import end_message, frame_message, start_message, write_rules
from running_monitor import Monitor, running_monitor, wait_for

from saeguard.monitor.detector import GRACE_S, Detector
from saeguard.monitor.requests import LiveRequest
from saeguard.monitor.store import get_request
from saeguard.monitor.tokens import TokenTexts
from saeguard.rules import Engine, load_rules

QUIET, LIE = [0.0, 0.0], [5.0, 0.0]
NO_TEXTS = TokenTexts(None, captured=False)


@pytest.fixture
def detector(tmp_path: Path) -> Detector:
    ruleset = load_rules([write_rules(tmp_path)])
    return Detector(Engine(ruleset, ["deceit", "calm"]), "w", num_features=2, record_tokens=16)


def observe(detector: Detector, step: int, **rows: tuple[int, list[list[float]]]):
    return detector.observe(*frame_message(rows, step, "w"), 0.0)


def finished(detector: Detector) -> dict[str, LiveRequest]:
    return {r.start.req_id: r for r in detector.finished(GRACE_S + 1)}


def account(request: LiveRequest) -> tuple[int, int, int, dict[str, int]]:
    coverage = request.coverage()
    return coverage.scheduled, coverage.observed, coverage.cached, coverage.unseen


def test_rows_from_before_are_down_and_rows_from_then_on_are_observed(detector: Detector):
    observe(detector, 1, a=(6, [QUIET]))  # it had waited in the queue
    detector.start(start_message("a", [1, 2], num_before=7), NO_TEXTS)
    (found,) = observe(detector, 2, a=(7, [LIE]))
    assert found.request.coverage_so_far().unseen == {"monitor_down": 6}
    detector.end(end_message("a", num_scheduled=8), 0.0)
    assert account(finished(detector)["a"]) == (8, 2, 0, {"monitor_down": 6})


def test_what_it_had_from_the_prefix_cache_was_before_as_well(detector: Detector):
    start = start_message(
        "a", [1] * 8, num_before=8, num_cached=4, block_size=4, block_hashes=[b"1", b"2"]
    )
    detector.start(start, NO_TEXTS)
    observe(detector, 1, a=(8, [QUIET]))
    detector.end(end_message("a", num_scheduled=5, num_cached=4), 0.0)
    assert account(finished(detector)["a"]) == (9, 1, 0, {"monitor_down": 8})


def test_what_is_lost_afterwards_has_its_own_reason(detector: Detector):
    detector.start(start_message("a", [1, 2], num_before=4), NO_TEXTS)
    observe(detector, 1, a=(4, [QUIET]))
    observe(detector, 3, a=(6, [QUIET]))
    detector.end(end_message("a", num_scheduled=7), 0.0)
    assert account(finished(detector)["a"]) == (7, 2, 0, {"monitor_down": 4, "dropped_frame": 1})


def test_a_request_that_was_preempted_before_is_accounted_for_to_the_last_row(detector: Detector):
    observe(detector, 1, a=(2, [QUIET]))
    observe(detector, 2, a=(0, [QUIET] * 3))  # computed again
    detector.start(start_message("a", [1, 2], num_before=6), NO_TEXTS)
    observe(detector, 3, a=(3, [QUIET]))
    detector.end(end_message("a", num_scheduled=7), 0.0)
    assert account(finished(detector)["a"]) == (7, 5, 0, {"monitor_down": 2})


def test_a_request_that_ended_meanwhile_is_recorded_once_it_is_told_again(detector: Detector):
    observe(detector, 1, a=(3, [LIE]))
    detector.end(end_message("a", num_scheduled=4), 0.0)
    (found,) = detector.start(start_message("a", [1, 2], num_before=4, has_ended=True), NO_TEXTS)
    assert found.match.position == 3
    assert account(finished(detector)["a"]) == (4, 1, 0, {"monitor_down": 3})
    assert detector.take_unannounced() == []


def test_what_an_earlier_monitor_recorded_or_this_one_knows_is_not_begun_again(detector: Detector):
    detector.start(start_message("a", [1, 2], num_before=4, has_ended=True), NO_TEXTS)
    assert detector.num_live == 0
    detector.start(start_message("b", [1, 2]), NO_TEXTS)
    observe(detector, 1, b=(0, [QUIET] * 2))
    detector.start(start_message("b", [1, 2], num_before=2), NO_TEXTS)
    detector.end(end_message("b", num_scheduled=2), 0.0)
    assert account(finished(detector)["b"]) == (2, 2, 0, {})


def test_an_end_alone_is_given_up_after_a_while(detector: Detector):
    detector.end(end_message("a", num_scheduled=4), 0.0)
    assert list(detector.finished(GRACE_S - 1)) == []
    assert detector.take_unannounced() == []
    assert list(detector.finished(GRACE_S)) == []
    assert [end.req_id for end in detector.take_unannounced()] == ["a"]
    assert detector.take_unannounced() == []


@pytest.fixture
def monitor(tmp_path: Path) -> Iterator[Monitor]:
    with running_monitor(tmp_path) as monitor:
        yield monitor


def test_the_account_reaches_records_and_metrics(monitor: Monitor):
    monitor.engine.start("told-1", [1, 2], num_before=3, clock_ns=1)
    monitor.engine.step({"told-1": (3, [LIE])})
    monitor.engine.end("told-1", num_scheduled=4)
    monitor.engine.end("lost-1", num_scheduled=10, num_cached=2)
    wait_for(
        lambda: monitor.metric("saeguard.tokens", coverage="unseen", reason="monitor_down") == 15,
        20,
    )
    wait_for(lambda: get_request(monitor.store, "told-1") is not None, 20)
    record = get_request(monitor.store, "told-1")
    assert record is not None
    assert record.coverage.unseen == {"monitor_down": 3}
    assert monitor.metric("saeguard.requests.unattended") == 1
    assert monitor.total("tokens/scheduled") == 16
