"""A running monitor takes up changed rules: real files, a real process, requests in flight."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq
from fake_engine import RULES, FakeEngine, write_rules
from running_monitor import LIE, QUIET, Monitor, running_monitor, wait_for

from saeguard.monitor.messages import SwapStatus, TapStatus, decode_control
from saeguard.monitor.store import get_request
from saeguard.monitor.watchlist import load

LOWER = RULES.replace("gte: 4.0", "gte: 3.0")
NEARLY = [3.5, 0.0]


@pytest.fixture
def monitor(tmp_path: Path) -> Iterator[Monitor]:
    with running_monitor(tmp_path) as monitor:
        yield monitor


def replace(path: Path, text: str) -> None:
    """As editors and deployments do: another file takes the name."""
    draft = path.with_name(".draft")
    draft.write_text(text)
    draft.replace(path)


def sha256(*texts: str) -> str:
    return hashlib.sha256("".join(texts).encode()).hexdigest()


def in_force(monitor: Monitor, *texts: str) -> bool:
    """Whether the rules of files with these contents are those that decide."""
    values = [
        metric.attributes["sha256"]
        for metric in monitor.receiver.metrics
        if metric.name == "saeguard.ruleset.info"
    ]
    return values[-1:] == [sha256(*texts)]


def refusals(monitor: Monitor) -> list[str]:
    return [alert.message for alert in monitor.alerts(rule_name="saeguard.rules_refused")]


def test_a_request_in_flight_comes_under_the_new_rules_with_what_was_seen_of_it(monitor: Monitor):
    monitor.engine.start("a-1", [1, 2])
    monitor.engine.step({"a-1": (0, [QUIET, QUIET])})
    monitor.engine.step({"a-1": (2, [NEARLY])})
    replace(monitor.directory / "rules.yaml", LOWER)
    wait_for(lambda: in_force(monitor, LOWER))
    assert not monitor.alerts(), "what was seen before is no news"
    monitor.engine.step({"a-1": (3, [QUIET])})
    wait_for(lambda: len(monitor.alerts()) == 1)
    (alert,) = monitor.alerts()
    assert (alert.position, alert.first_position) == (3, 2)
    assert next(s for s in alert.signals if s.name == "lie").value == 3.5
    assert alert.ruleset_sha256 == sha256(LOWER)
    assert monitor.metric("saeguard.rules.reload", outcome="ok") == 1


def test_what_the_old_rules_had_raised_is_not_raised_again(monitor: Monitor):
    monitor.engine.start("a-1", [1, 2])
    monitor.engine.step({"a-1": (0, [QUIET, QUIET, LIE])})
    wait_for(lambda: len(monitor.alerts()) == 1)
    replace(monitor.directory / "rules.yaml", LOWER)
    wait_for(lambda: in_force(monitor, LOWER))
    monitor.engine.step({"a-1": (3, [LIE, *[QUIET] * 8, LIE])})
    monitor.engine.end("a-1", num_scheduled=13)
    wait_for(lambda: monitor.total("requests/finished") == 1)
    assert len(monitor.alerts()) == 1
    record = get_request(monitor.store, "a-1")
    assert record is not None
    counts = record.counts["deception"]
    assert (counts.matches, counts.emitted, counts.limited) == (2, 1, 1)


@pytest.mark.parametrize("damage", ["gte: 4.0,", "severity: high", "condition: lie and not calm"])
def test_a_broken_change_leaves_the_rules_in_force_and_everybody_hears_of_it(
    monitor: Monitor, damage: str
):
    replace(monitor.directory / "rules.yaml", RULES.replace(damage.strip(","), "oops: 1"))
    wait_for(lambda: len(refusals(monitor)) == 1)
    monitor.lie_once("a-1")
    wait_for(lambda: len(monitor.alerts(rule_name="deception")) == 1)
    wait_for(lambda: monitor.metric("saeguard.rules.reload", outcome="refused") == 1)
    wait_for(lambda: len(monitor.receiver.alert_ids()) == 2)
    assert in_force(monitor, RULES)
    (health,) = monitor.alerts(kind="health")
    assert "rules.yaml:" in health.message
    assert (health.severity, health.position, health.req_id) == ("high", -1, "")
    (alert,) = monitor.alerts(kind="match")
    assert alert.ruleset_sha256 == sha256(RULES)
    log = monitor.stop()
    assert "rules_refused" in log
    assert "Traceback" not in log


def test_mending_a_broken_file_is_a_reload_like_any_other(monitor: Monitor):
    rules = monitor.directory / "rules.yaml"
    replace(rules, "rules: [")
    wait_for(lambda: len(refusals(monitor)) == 1)
    replace(rules, LOWER)
    wait_for(lambda: in_force(monitor, LOWER))


def test_a_file_that_is_written_again_with_the_same_contents_changes_nothing(monitor: Monitor):
    rules = monitor.directory / "rules.yaml"
    replace(rules, RULES)
    rules.touch()
    assert not _happens(lambda: monitor.total("rules/reload/ok") > 0, within_s=2.0)
    assert not refusals(monitor)


def test_a_change_in_place_is_seen_too(monitor: Monitor):
    (monitor.directory / "rules.yaml").write_text(LOWER)
    wait_for(lambda: in_force(monitor, LOWER))


def test_the_links_of_a_kubernetes_configmap_are_followed_anew(tmp_path: Path):
    mount = tmp_path / "mount"
    first = mount / "..2026_11_01"
    first.mkdir(parents=True)
    (first / "rules.yaml").write_text(RULES)
    (mount / "..data").symlink_to(first.name)
    (mount / "rules.yaml").symlink_to("..data/rules.yaml")
    with running_monitor(tmp_path, rules=["mount/rules.yaml"]) as monitor:
        second = mount / "..2026_11_02"
        second.mkdir()
        (second / "rules.yaml").write_text(LOWER)
        (mount / "..data_tmp").symlink_to(second.name)
        os.rename(mount / "..data_tmp", mount / "..data")
        shutil.rmtree(first)
        wait_for(lambda: in_force(monitor, LOWER))
        assert not refusals(monitor)


def test_rules_can_be_left_alone(tmp_path: Path):
    with running_monitor(tmp_path, reload=False) as monitor:
        replace(tmp_path / "rules.yaml", LOWER)
        assert not _happens(lambda: in_force(monitor, LOWER), within_s=4.0)
        monitor.lie_once("a-1")
        wait_for(lambda: len(monitor.alerts()) == 1)
        assert monitor.alerts()[0].ruleset_sha256 == sha256(RULES)


def test_a_storm_of_changes_loses_no_row_and_ends_with_the_last_one(monitor: Monitor):
    rules = monitor.directory / "rules.yaml"
    monitor.engine.start("a-1", [1, 2])
    monitor.engine.step({"a-1": (0, [QUIET, QUIET])})
    for number in range(200):
        text = RULES if number % 2 else "rules: ["
        rules.write_text(text.replace("1.0.0", f"1.0.{number}"))
        monitor.engine.step({"a-1": (2 + number, [QUIET])})
        threading.Event().wait(0.01)
    last = RULES.replace("1.0.0", "1.0.199")
    wait_for(lambda: in_force(monitor, last))
    monitor.engine.step({"a-1": (202, [LIE])})
    monitor.engine.end("a-1", num_scheduled=203)
    wait_for(lambda: monitor.total("requests/finished") == 1)
    (alert,) = monitor.alerts(rule_name="deception")
    assert (alert.ruleset_version, alert.ruleset_sha256) == ("1.0.199", sha256(last))
    assert monitor.total("tokens/observed") == 203
    assert monitor.total("messages/failed") == 0


ANGER = RULES.replace("name: calm", "name: anger").replace("calm", "anger")
ANGER = ANGER.replace("lie and not anger", "lie and anger")


class FakeWorker(threading.Thread):
    """Answers like a worker that can use any watchlist, or like one that can use none."""

    def __init__(self, monitor: Monitor, refusal: str = "") -> None:
        super().__init__(daemon=True)
        self._socket = zmq.Context.instance().socket(zmq.SUB)
        self._socket.subscribe(b"")
        self._socket.connect(f"ipc://{monitor.directory / 'run' / 'control'}")
        self._engine = monitor.engine
        self.refusal = refusal
        self.watchlist = ""
        self.start()

    def run(self) -> None:
        while True:
            swap = decode_control(self._socket.recv())
            state = "refused" if self.refusal else "done" if swap.go else "ready"
            if state == "done":
                self.watchlist = swap.watchlist
            self._engine.send(SwapStatus(0, 1, swap.watchlist, state, self.refusal))


def recompile(refusal: str) -> None:
    """Run the command that a refusal asks for, as somebody who pastes it would."""
    command = refusal.partition("(run: ")[2].rpartition(")")[0]
    saeguard, *arguments = shlex.split(command)
    assert saeguard == "saeguard"
    subprocess.run(
        [sys.executable, "-P", "-c", "from saeguard.monitor.cli import main; main()", *arguments],
        check=True,
        cwd="/",
        capture_output=True,
    )


@pytest.fixture
def with_anger(monitor: Monitor) -> Monitor:
    """The rules have come to need a feature that the watchlist lacks."""
    write_rules(monitor.directory, names=("deceit", "calm", "anger"))
    replace(monitor.directory / "rules.yaml", ANGER)
    wait_for(lambda: len(refusals(monitor)) == 1)
    assert "it lacks anger" in refusals(monitor)[0]
    return monitor


def test_the_command_that_a_refusal_asks_for_brings_the_new_rules_into_force(with_anger: Monitor):
    monitor = with_anger
    worker = FakeWorker(monitor)
    monitor.engine.start("a-1", [1, 2])
    monitor.engine.step({"a-1": (0, [QUIET, QUIET, LIE])})  # a lie: what is known stays known
    wait_for(lambda: len(monitor.alerts(kind="match")) == 1)
    monitor.engine.start("b-1", [1, 2])
    monitor.engine.step({"b-1": (0, [QUIET, QUIET])})
    recompile(refusals(monitor)[-1])
    wait_for(lambda: in_force(monitor, ANGER))
    fresh = load(monitor.directory / "watch.safetensors")
    assert worker.watchlist == fresh.digest
    engine = FakeEngine(f"ipc://{monitor.directory / 'run' / 'inbox'}", fresh.digest, fresh.columns)
    monitor.engine.step({"b-1": (2, [QUIET])})  # was on its way: of the watchlist before
    engine.step({"b-1": (3, [[5.0, 0.0, 2.0]])}, tap_calls=[100])
    engine.end("b-1", num_scheduled=4)
    wait_for(lambda: monitor.total("requests/finished") == 1)
    (alert,) = monitor.alerts(req_id="b-1")
    assert (alert.watchlist, alert.position) == (fresh.digest, 3)
    record = get_request(monitor.store, "b-1")
    assert record is not None
    assert record.coverage.complete
    assert record.features == list(fresh.columns)


def test_a_watchlist_that_the_workers_refuse_changes_nothing(with_anger: Monitor):
    monitor = with_anger
    FakeWorker(monitor, refusal="3 features, but room for 2")
    recompile(refusals(monitor)[-1])
    wait_for(lambda: "worker 0: 3 features, but room for 2" in refusals(monitor)[-1])
    monitor.lie_once("a-1")
    wait_for(lambda: len(monitor.alerts(kind="match")) == 1)
    assert monitor.alerts(kind="match")[0].ruleset_sha256 == sha256(RULES)


def test_a_watchlist_that_was_refused_is_offered_again_when_its_file_is_written_again(
    with_anger: Monitor,
):
    refusal = refusals(with_anger)[-1]
    worker = FakeWorker(with_anger, refusal="the device has no memory left")
    recompile(refusal)
    wait_for(lambda: "no memory left" in refusals(with_anger)[-1])
    worker.refusal = ""
    recompile(refusal)  # to the same contents
    wait_for(lambda: in_force(with_anger, ANGER))
    assert "rules_unchanged" not in with_anger.stop()


def test_a_monitor_whose_watchlist_the_server_refuses_from_the_start_says_that_it_is_blind(
    monitor: Monitor,
):
    """It was restarted while the workers watched with another one, say."""
    worker = FakeWorker(monitor, refusal="3 features, but room for 2")
    wait_for(lambda: len(monitor.alerts(rule_name="saeguard.blind")) == 1)
    monitor.engine.step({"a-1": (0, [QUIET])})
    wait_for(lambda: monitor.metric("saeguard.taps.alive") == 0)
    (alert,) = monitor.alerts()
    assert "watch.safetensors, and refuses this one: worker 0: 3 features" in alert.message
    assert "restart the server, or put the watchlist back" in alert.message
    worker.refusal = ""
    monitor.engine.send(TapStatus(rank=0, alive=True))  # the server was restarted
    wait_for(lambda: monitor.metric("saeguard.taps.alive") == 1)
    log = monitor.stop()
    assert '"event": "blind"' in log
    assert '"event": "no_longer_blind"' in log


def test_a_feature_that_has_become_another_one_is_not_taken_for_the_old(monitor: Monitor):
    replace(monitor.directory / "rules.yaml", RULES.replace("probe.safetensors", "p2.safetensors"))
    wait_for(lambda: len(refusals(monitor)) == 1)
    assert "its deceit is of the probe probe.safetensors" in refusals(monitor)[0]


FEATURES, _, RULE = RULES.partition("rules:\n")


def rule_file(name: str) -> str:
    """A file with one more rule."""
    number = hashlib.sha256(name.encode()).hexdigest()[:12]
    rule = RULE.replace("1c1f6f0c9b11", number).replace("name: deception", f"name: {name}")
    return f"version: 1\nruleset: {{name: {name}, version: 1.0.0}}\nrules:\n{rule}"


def test_files_that_come_in_quick_succession_are_all_in_force_in_the_end(tmp_path: Path):
    folder = tmp_path / "rules.d"
    folder.mkdir()
    (folder / "00.yaml").write_text(RULES)
    with running_monitor(tmp_path, rules=["rules.d"]) as monitor:
        texts = [RULES, *(rule_file(name) for name in ("one", "two", "three", "four"))]
        for number, text in enumerate(texts[1:], start=1):
            (folder / f"{number:02}.yaml").write_text(text)
        wait_for(lambda: in_force(monitor, *texts))
        monitor.lie_once("a-1")
        wait_for(lambda: len(monitor.alerts(kind="match")) == 5)
        assert not refusals(monitor)


def test_a_rule_whose_file_is_deleted_is_out_of_force(tmp_path: Path):
    folder = tmp_path / "rules.d"
    folder.mkdir()
    (folder / "00.yaml").write_text(RULES)
    (folder / "01.yaml").write_text(rule_file("more"))
    with running_monitor(tmp_path, rules=["rules.d"]) as monitor:
        monitor.engine.start("a-1", [1, 2])
        monitor.engine.step({"a-1": (0, [QUIET, QUIET])})
        (folder / "01.yaml").unlink()
        wait_for(lambda: in_force(monitor, RULES))
        monitor.engine.step({"a-1": (2, [LIE])})
        wait_for(lambda: len(monitor.alerts()) == 1)
        assert monitor.alerts()[0].rule_name == "deception"
        (folder / "00.yaml").unlink()
        wait_for(lambda: len(refusals(monitor)) == 1)
        assert "no *.yaml" in refusals(monitor)[0]


REPEATED = """
  - id: 7d1c0c1e-5a0a-4b7c-8a5f-1c1f6f0c9b12
    name: repeated
    title: Repeated deception
    status: test
    severity: critical
    correlate: {type: event_count, rules: [deception], group_by: [tenant], timespan: 10m, gte: 2}
    message: "{count} in {timespan} of {group.tenant}"
"""


def test_what_was_counted_across_requests_survives_a_change_of_other_rules(tmp_path: Path):
    with running_monitor(tmp_path) as monitor:
        rules = tmp_path / "rules.yaml"
        replace(rules, RULES + REPEATED)
        wait_for(lambda: in_force(monitor, RULES + REPEATED))
        monitor.lie_once("a-1", tenant="acme")
        wait_for(lambda: len(monitor.alerts()) == 1)
        replace(rules, RULES + REPEATED.replace("Repeated", "More"))
        changed = RULES.replace("1.0.0", "1.0.1") + REPEATED
        replace(rules, changed)
        wait_for(lambda: in_force(monitor, changed))
        monitor.lie_once("b-1", tenant="acme")
        wait_for(lambda: len(monitor.alerts(kind="correlation")) == 1)
        (alert,) = monitor.alerts(kind="correlation")
        assert alert.correlation is not None
        assert [match.req_id for match in alert.correlation.matches] == ["a-1", "b-1"]


def _happens(condition, within_s: float) -> bool:
    try:
        wait_for(condition, within_s)
    except AssertionError:
        return False
    return True
