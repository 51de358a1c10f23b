"""Rules with `action: stop`, from a match to what EngineCore hears and what is recorded."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq
from fake_engine import ON_A_LIE
from records import make_alert
from running_monitor import LIE, QUIET, Monitor, running_monitor, wait_for

from saeguard.monitor.messages import (
    Alive,
    Control,
    Stop,
    TapStatus,
    decode_control,
    encode_control,
)
from saeguard.monitor.stops import Stops
from saeguard.monitor.store import get_request

REPEATED = """
  - id: 00000000-0000-4000-8000-000000000004
    name: repeated
    title: One client, two lies
    status: test
    severity: critical
    action: stop
    correlate: {type: event_count, rules: [seen], group_by: [client], timespan: 10m, gte: 2}
    message: "again"
"""
EXCEPTION = "{name: drafting, when: {tenant: [legal]}, reason: they draft fiction}"
RULES = (
    "version: 1\nruleset: {name: stops, version: 1.0.0}\nrules:"
    + ON_A_LIE.format(
        number=1,
        name="lying",
        more=f"action: stop\n    scope: {{tenant: [acme, legal]}}\n    exceptions: [{EXCEPTION}]",
    )
    + ON_A_LIE.format(number=2, name="seen", more="emit: false")
    + REPEATED
)


class Told:
    """What EngineCore hears."""

    def __init__(self, run_dir: Path) -> None:
        self._socket = zmq.Context.instance().socket(zmq.SUB)
        self._socket.subscribe(b"")
        self._socket.connect(f"ipc://{run_dir / 'control'}")
        assert self._socket.poll(5_000), "the monitor offers its watchlist until it is answered"

    def stop(self, timeout_ms: int = 3_000) -> Stop | None:
        """The next stop within the time."""
        deadline_s = time.monotonic() + timeout_ms / 1000
        while self._socket.poll(max(0, 1000 * (deadline_s - time.monotonic()))):
            message = decode_control(self._socket.recv())
            if isinstance(message, Stop):
                return message
        return None

    def num_stops(self, timeout_ms: int = 300) -> int:
        count = 0
        while self.stop(timeout_ms):
            count += 1
        return count


@pytest.fixture
def monitor(tmp_path: Path) -> Iterator[Monitor]:
    (tmp_path / "more.yaml").write_text(RULES)
    with running_monitor(tmp_path, rules=["rules.yaml", "more.yaml"]) as monitor:
        yield monitor


@pytest.fixture
def told(monitor: Monitor) -> Iterator[Told]:
    told = Told(monitor.directory / "run")
    yield told
    told._socket.close(linger=0)


def lie(monitor: Monitor, req_id: str, **fields: object) -> None:
    monitor.engine.start(req_id, [1, 2], **fields)
    monitor.engine.step({req_id: (0, [QUIET, QUIET])})
    monitor.engine.step({req_id: (2, [LIE])})


def stops(monitor: Monitor, outcome: str) -> float | None:
    return monitor.metric("saeguard.stops", rule="lying", severity="high", outcome=outcome)


def stop_outcome(monitor: Monitor, req_id: str) -> str:
    wait_for(lambda: get_request(monitor.store, req_id) is not None)
    record = get_request(monitor.store, req_id)
    assert record is not None
    return record.stop_outcome


def test_the_rule_and_the_alert_are_named_and_the_outcome_is_recorded(monitor, told):
    lie(monitor, "a-1", tenant="acme")
    message = told.stop()
    wait_for(lambda: monitor.alerts(rule_name="lying"))
    (alert,) = monitor.alerts(rule_name="lying")
    assert message == Stop("a-1", "lying", "high", alert.id)
    assert (alert.action, alert.action_outcome) == ("stop", "requested")
    monitor.engine.end("a-1", num_scheduled=3, reason="saeguard:lying")
    assert stop_outcome(monitor, "a-1") == "stopped"
    for outcome, count in {"requested": 1, "stopped": 1, "too_late": 0}.items():
        wait_for(lambda o=outcome, n=count: stops(monitor, o) == n)


def test_it_is_asked_again_until_the_request_has_ended(monitor, told):
    lie(monitor, "a-1", tenant="acme")
    first, half_a_second_later = told.stop(), told.stop()
    assert first is not None
    assert first == half_a_second_later
    monitor.engine.end("a-1", num_scheduled=3, reason="length_capped")
    assert stop_outcome(monitor, "a-1") == "too_late"
    told.num_stops()
    assert told.stop(800) is None


def test_a_match_in_a_request_that_has_ended_stops_nothing(monitor, told):
    monitor.engine.start("a-1", [1, 2], tenant="acme")
    monitor.engine.step({"a-1": (0, [QUIET, QUIET])})
    monitor.engine.end("a-1", num_scheduled=3)
    monitor.engine.step({"a-1": (2, [LIE])})
    wait_for(lambda: monitor.alerts(rule_name="lying"))
    (alert,) = monitor.alerts(rule_name="lying")
    assert alert.action_outcome == "too_late"
    assert stop_outcome(monitor, "a-1") == "", "nothing was asked"
    wait_for(lambda: monitor.total("stops/lying/high/too_late") == 1)
    assert told.stop(700) is None


def test_excused_matches_and_building_blocks_stop_nothing(monitor, told):
    lie(monitor, "excused-1", tenant="legal")
    wait_for(lambda: monitor.total("suppressed/lying/high/drafting") == 1)
    wait_for(lambda: monitor.total("building_blocks/seen/high") == 1)
    assert told.stop(700) is None


def test_a_rule_across_requests_stops_the_one_that_completed_it(monitor, told):
    lie(monitor, "a-1", client="app")
    lie(monitor, "b-1", client="app")
    message = told.stop()
    assert message is not None
    assert (message.req_id, message.rule) == ("b-1", "repeated")
    wait_for(lambda: monitor.alerts(rule_name="repeated"))
    (alert,) = monitor.alerts(rule_name="repeated")
    assert alert.action_outcome == "requested"


def test_two_rules_that_want_the_same_end_ask_once_and_asking_has_an_end():
    said: list[Control] = []
    stops = Stops(said.append)
    stops.ask("a-1", make_alert(rule_name="first"), now_s=0.0)
    stops.ask("a-1", make_alert(rule_name="second"), now_s=0.0)
    assert [message.rule for message in said] == ["first"]
    for second in range(1, 100):
        stops.poll(float(second))
    assert len(said) == 20
    stops.ended("a-1")


def test_a_stop_survives_the_wire():
    message = Stop("a-1", "lying", "high", "0190")
    assert decode_control(encode_control(message)) == message


def test_signs_of_life_are_given_where_serving_depends_on_them(tmp_path: Path):
    def alive(told: Told, count: int) -> list[Alive]:
        said = []
        while len(said) < count and told._socket.poll(3_000):
            message = decode_control(told._socket.recv())
            said += [message] if isinstance(message, Alive) else []
        return said

    with running_monitor(tmp_path, fail="closed") as monitor:
        told = Told(monitor.directory / "run")
        before, after = alive(told, 2)
        assert before == after
        assert before.blind == ""
        monitor.engine.send(TapStatus(rank=0, alive=False, reason="a driver failed"))
        wait_for(lambda: alive(told, 1)[0].blind == "a driver failed")
        told._socket.close(linger=0)
