"""A running monitor takes up changed rules: real files, a real process, requests in flight."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_engine import RULES
from reloading import in_force, refusals, replace, sha256
from running_monitor import LIE, QUIET, Monitor, running_monitor, wait_for

from saeguard.monitor.store import get_request

LOWER = RULES.replace("gte: 4.0", "gte: 3.0")
NEARLY = [3.5, 0.0]


@pytest.fixture
def monitor(tmp_path: Path) -> Iterator[Monitor]:
    with running_monitor(tmp_path) as monitor:
        yield monitor


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
