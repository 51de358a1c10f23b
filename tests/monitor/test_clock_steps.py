"""The clock on the wall is set forward and back by an hour while the monitor works: what lasts a
while lasts as long as before.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from running_monitor import Monitor, running_monitor, wait_for

from saeguard.monitor.store import list_alerts

CLOCK = Path(__file__).parents[1] / "support" / "shims" / "clock"
HOUR_S = 3600
RULES = """
version: 1
ruleset: {name: windows, version: 1.0.0}
rules:
  - id: 7d1c0c1e-5a0a-4b7c-8a5f-1c1f6f0c9b12
    name: twice
    title: Twice
    status: test
    severity: high
    correlate: {type: event_count, rules: [deception], group_by: [tenant], timespan: 10m, gte: 2}
    limit: {per: rule, max: 9, every: 1h}
    message: "{rule.title}"
    tags: [harm.deception]
    falsepositives: []
  - id: 7d1c0c1e-5a0a-4b7c-8a5f-1c1f6f0c9b13
    name: seldom
    title: Seldom
    status: test
    severity: high
    signals: {lie: {feature: deceit, agg: value, gte: 4.0}}
    condition: lie
    limit: {per: rule, max: 1, every: 2s}
    message: "{rule.title}"
    tags: [harm.deception]
    falsepositives: []
"""


class WallClock:
    """Of this process, which speaks as vLLM's do, and of the monitor."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._time_ns = time.time_ns
        self.set(0)

    def set(self, step_s: int) -> None:
        """Wrong by so much."""
        self._file.write_text(str(step_s))
        self._step_ns = step_s * 10**9

    def time_ns(self) -> int:
        return self._time_ns() + self._step_ns


@pytest.fixture
def clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WallClock:
    clock = WallClock(tmp_path / "step")
    monkeypatch.setenv("CLOCK_STEP_S", str(tmp_path / "step"))
    monkeypatch.setenv("PYTHONPATH", str(CLOCK))
    monkeypatch.setattr(time, "time_ns", clock.time_ns)
    return clock


@pytest.fixture
def monitor(tmp_path: Path, clock: WallClock) -> Iterator[Monitor]:
    (tmp_path / "windows.yaml").write_text(RULES)
    with running_monitor(tmp_path, rules=["rules.yaml", "windows.yaml"]) as monitor:
        yield monitor


def lie(monitor: Monitor, number: int) -> None:
    """And wait for what comes of it."""
    monitor.lie_once(f"r{number}-1", tenant="acme")
    wait_for(lambda: monitor.total("requests/finished") == number)


def test_windows_and_limits_last_as_long_as_before(monitor: Monitor, clock: WallClock):
    began_s = time.monotonic()
    lie(monitor, 1)
    clock.set(HOUR_S)
    lie(monitor, 2)
    assert time.monotonic() - began_s < 2, "too slow to tell"
    assert [a.request_id for a in monitor.alerts(rule_name="twice")] == ["r2"]
    assert [a.request_id for a in monitor.alerts(rule_name="seldom")] == ["r1"]
    clock.set(-HOUR_S)
    time.sleep(2)
    lie(monitor, 3)
    assert [a.request_id for a in monitor.alerts(rule_name="seldom")] == ["r1", "r3"]
    assert monitor.total("requests/unattended") == 0


def test_alerts_say_what_the_clock_on_the_wall_said(monitor: Monitor, clock: WallClock):
    right_ns = time.time_ns()
    for number, step_s in enumerate((0, HOUR_S, -HOUR_S), 1):
        clock.set(step_s)
        lie(monitor, number)
    alerts = list_alerts(monitor.store)[::-1]
    assert [a.id for a in alerts] == sorted(a.id for a in alerts), "in the order in which they came"
    (first,) = monitor.alerts(request_id="r1", rule_name="deception")
    (third,) = monitor.alerts(request_id="r3", rule_name="deception")
    assert first.time_ns - right_ns < 60e9
    assert third.time_ns - right_ns < -3500e9
    correlation = monitor.alerts(rule_name="twice")[0].correlation
    assert correlation is not None
    hours = [round((match.time_ns - right_ns) / 3600e9) for match in correlation.matches]
    assert hours == [0, 1]
