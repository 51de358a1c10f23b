"""What clients opt out of, in the real monitor: whatever comes of it is counted and recorded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fake_engine import ON_A_LIE
from running_monitor import Monitor, running_monitor, wait_for

from saeguard.monitor.alerts import Alert, RequestRecord, RuleCounts
from saeguard.monitor.store import get_request

RULES = (
    "version: 1\nruleset: {name: opting, version: 1.0.0}\nrules:"
    + ON_A_LIE.format(number=1, name="lying", more="action: stop")
    + ON_A_LIE.format(number=2, name="always", more="mandatory: true")
)
# `deception` comes with the monitor of the tests.
EVERYTHING, MANDATORY = ["always", "deception", "lying"], ["always"]


@contextmanager
def opting(directory: Path, **config: object) -> Iterator[Monitor]:
    (directory / "more.yaml").write_text(RULES)
    with running_monitor(directory, rules=["rules.yaml", "more.yaml"], **config) as monitor:
        yield monitor


@pytest.fixture(scope="module")
def monitor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Monitor]:
    with opting(tmp_path_factory.mktemp("open"), allow_opt_out=True) as monitor:
        yield monitor


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Monitor]:
    with opting(tmp_path_factory.mktemp("closed")) as monitor:
        yield monitor


def lie(monitor: Monitor, req_id: str, opt_out: str) -> RequestRecord:
    monitor.lie_once(req_id, opt_out=opt_out, policy="gold")
    wait_for(lambda: get_request(monitor.store, req_id) is not None)
    record = get_request(monitor.store, req_id)
    assert record is not None
    return record


def alerts(monitor: Monitor, req_id: str) -> list[str]:
    return sorted(alert.rule_name for alert in monitor.alerts(req_id=req_id))


def test_a_client_is_left_alone_by_what_it_names_and_nothing_else(monitor: Monitor):
    record = lie(monitor, "named-1", "lying")
    assert alerts(monitor, "named-1") == ["always", "deception"]
    assert record.opt_outs == {"lying": "granted"}
    assert record.counts["lying"] == RuleCounts(1, opted_out=1)
    assert record.coverage.observed == record.coverage.scheduled == 3
    assert record.stop_outcome == "", "nothing was asked"
    assert (record.policy, monitor.alerts(req_id="named-1")[0].policy) == ("gold", "gold")


def test_a_mandatory_rule_holds_for_who_opts_out_of_it_or_of_everything(monitor: Monitor):
    record = lie(monitor, "all-1", "*")
    assert alerts(monitor, "all-1") == MANDATORY
    assert record.opt_outs == {"*": "granted"}
    record = lie(monitor, "some-1", " always , lying")
    assert alerts(monitor, "some-1") == ["always", "deception"]
    assert record.opt_outs == {"always": "mandatory", "lying": "granted"}


@pytest.mark.parametrize("asked", ["ying", "7", "{'lying': 1}", "lying*", "LYING", "lying;always"])
def test_what_is_the_name_of_no_rule_turns_nothing_off(monitor: Monitor, asked: str):
    req_id = f"unknown {asked}-1"
    record = lie(monitor, req_id, asked)
    assert alerts(monitor, req_id) == EVERYTHING
    assert record.opt_outs == {asked: "unknown"}


def test_nobody_opts_out_unless_the_configuration_allows_it(closed: Monitor):
    record = lie(closed, "a-1", "lying,*,nonsense")
    assert alerts(closed, "a-1") == EVERYTHING
    assert record.opt_outs == {"lying": "not_allowed", "*": "not_allowed", "nonsense": "unknown"}


def test_every_wish_and_every_match_that_it_held_back_is_counted_and_logged(tmp_path: Path):
    with opting(tmp_path, allow_opt_out=True) as monitor:
        lie(monitor, "a-1", "lying,always,nonsense\x1b[31m")
        outcomes = ("granted", "mandatory", "unknown", "not_allowed")
        for outcome, count in zip(outcomes, (1, 1, 1, 0), strict=True):
            wait_for(lambda o=outcome, n=count: monitor.metric("saeguard.opt_outs", outcome=o) == n)
        labels = {"rule": "lying", "severity": "high"}
        wait_for(lambda: monitor.metric("saeguard.opted_out", **labels) == 1)
        assert monitor.metric("saeguard.opted_out", rule="always", severity="high") is None
        (said,) = [
            line for text in monitor.stop().splitlines()
            if (line := json.loads(text))["event"] == "opt_out"
        ]  # fmt: skip
        assert said["request_id"] == "a"
        assert said["rules"]["lying"] == "granted"


def test_an_engine_s_id_of_any_length_is_kept_short(monitor: Monitor):
    req_id = "x" * 100_000 + "-12345678"
    monitor.lie_once(req_id, external_id="a")

    def alerts() -> list[Alert]:
        return [a for a in monitor.alerts(rule_name="lying") if a.req_id.endswith("-12345678")]

    wait_for(lambda: len(alerts()) == 1)
    (alert,) = alerts()
    assert len(alert.req_id) == 200
    wait_for(lambda: get_request(monitor.store, alert.req_id) is not None)
