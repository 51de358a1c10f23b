"""What becomes of matches in the real monitor: none of them is silent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from running_monitor import LIE, QUIET, Monitor, running_monitor, wait_for

from saeguard.monitor.alerts import RuleCounts
from saeguard.monitor.store import get_request

ON_A_LIE = """
  - id: 00000000-0000-4000-8000-00000000000{number}
    name: {name}
    title: A lie
    status: test
    severity: medium
    scope: {{phase: [answer]}}
    signals:
      lie: {{feature: deceit, agg: value, gte: 4.0}}
    condition: lie
    message: "a lie"
    {more}
"""
REPEATED = """
  - id: 00000000-0000-4000-8000-000000000004
    name: repeated
    title: One client, two lies
    status: test
    severity: critical
    correlate: {type: event_count, rules: [seen], group_by: [client], timespan: 10m, gte: 2}
    message: "{count} within {timespan} by {group.client}"
"""
EXCEPTION = "{name: drafting, when: {tenant: [legal]}, reason: they draft fiction}"
RULES = (
    "version: 1\nruleset: {name: decisions, version: 1.0.0}\nrules:"
    + ON_A_LIE.format(number=1, name="excused", more=f"exceptions: [{EXCEPTION}]")
    + ON_A_LIE.format(number=2, name="seen", more="emit: false")
    + ON_A_LIE.format(number=3, name="careful", more="min_coverage: 90%")
    + REPEATED
)


@pytest.fixture
def monitor(tmp_path: Path) -> Iterator[Monitor]:
    (tmp_path / "more.yaml").write_text(RULES)
    with running_monitor(tmp_path, rules=["rules.yaml", "more.yaml"]) as monitor:
        yield monitor


def counts(monitor: Monitor, req_id: str) -> dict[str, RuleCounts]:
    wait_for(lambda: get_request(monitor.store, req_id) is not None)
    record = get_request(monitor.store, req_id)
    assert record is not None
    return record.counts


def names(monitor: Monitor, req_id: str) -> set[str]:
    return {alert.rule_name for alert in monitor.alerts(req_id=req_id)}


def test_an_excused_match_is_no_alert_but_counted_under_its_exception(monitor: Monitor):
    monitor.lie_once("a-1", tenant="legal")
    assert counts(monitor, "a-1")["excused"] == RuleCounts(1, 0, 0, {"drafting": 1}, 0)
    assert "excused" not in names(monitor, "a-1")
    labels = {"rule": "excused", "severity": "medium"}
    wait_for(lambda: monitor.metric("saeguard.suppressed", exception="drafting", **labels) == 1)
    monitor.lie_once("b-1", tenant="sales")
    assert counts(monitor, "b-1")["excused"] == RuleCounts(1, 1)
    assert monitor.metric("saeguard.alerts", **labels) is not None


def test_what_is_over_a_limit_is_counted(monitor: Monitor):
    monitor.engine.start("a-1", [1, 2])
    monitor.engine.step({"a-1": (0, [QUIET, QUIET, LIE, QUIET, LIE])})
    monitor.engine.end("a-1", num_scheduled=5)
    assert counts(monitor, "a-1")["excused"] == RuleCounts(2, 1, 1)
    wait_for(lambda: monitor.total("limited/excused/medium") == 1)


def test_a_building_block_raises_no_alert_and_the_rule_across_requests_names_it(monitor: Monitor):
    for req_id in ("a-1", "b-1", "other-1"):
        monitor.lie_once(req_id, client="other" if req_id == "other-1" else "app")
    assert counts(monitor, "b-1")["seen"] == RuleCounts(1, building_block=1)
    assert counts(monitor, "b-1")["repeated"] == RuleCounts(1, 1)
    (alert,) = monitor.alerts(kind="correlation")
    assert (alert.rule_name, alert.req_id, alert.client) == ("repeated", "b-1", "app")
    assert alert.message == "2 within 10m by app"
    assert (alert.phase, alert.position) == ("answer", 2)
    assert [signal.name for signal in alert.signals] == ["lie"], "of the match that completed it"
    evidence = alert.correlation
    assert evidence is not None
    assert (evidence.group, evidence.count, evidence.timespan_s) == ({"client": "app"}, 2, 600)
    assert [(m.rule, m.req_id, m.request_id) for m in evidence.matches] == [
        ("seen", "a-1", "a"),
        ("seen", "b-1", "b"),
    ]
    assert not monitor.alerts(rule_name="seen")
    wait_for(lambda: len(monitor.receiver.alert_ids()) == len(monitor.alerts()))
    (log,) = [
        log for log in monitor.receiver.logs
        if log.attributes["saeguard.alert.kind"] == "correlation"
    ]  # fmt: skip
    assert log.attributes["saeguard.correlation.requests"] == ["a", "b"]


def test_silence_about_a_request_that_was_hardly_seen_is_called_so(monitor: Monitor):
    monitor.engine.start("a-1", [1, 2])
    monitor.engine.step({"a-1": (0, [QUIET, QUIET])})
    monitor.engine.step({"a-1": (9, [QUIET])})  # seven rows were lost
    monitor.engine.end("a-1", num_scheduled=10)
    monitor.engine.start("b-1", [1, 2])
    monitor.engine.step({"b-1": (0, [QUIET, QUIET])})
    monitor.engine.end("b-1", num_scheduled=2)
    wait_for(lambda: monitor.total("requests/finished") == 2, 20)
    record = get_request(monitor.store, "a-1")
    assert record is not None
    assert record.uncovered == ["careful"]
    assert get_request(monitor.store, "b-1") is None, "all of it was seen, and nothing happened"
    labels = {"rule": "careful", "severity": "medium"}
    wait_for(lambda: monitor.metric("saeguard.uncovered", **labels) == 1)
    lines = [line for line in monitor.stop().splitlines() if '"uncovered"' in line]
    assert len(lines) == 1
    assert "careful" in lines[0]
