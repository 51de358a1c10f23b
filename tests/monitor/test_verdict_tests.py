"""Verdicts on alerts become rule tests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import yaml
from console_script import console_script
from records import ANSWER, PROMPT, make_alert, make_health_alert, make_request
from running_monitor import running_monitor, wait_for

from saeguard.monitor.alerts import Alert, CorrelationEvidence, CountedMatch, new_alert_id
from saeguard.monitor.store import Store, list_alerts, list_requests
from saeguard.monitor.verdict_tests import NoRuleTest, RuleFiles, RuleTest, rule_test
from saeguard.monitor.verdicts import add_verdict
from saeguard.rules import load_rules
from saeguard.rules.testing.files import run_files

NAN = float("nan")
RULES = """
version: 1
ruleset: {name: core, version: 1.0.0}
features:
  deceit: {probe: {path: probe.safetensors}, name: deceit}
  calm: {probe: {path: probe.safetensors}, name: calm}
rules:
  - id: 7d1c0c1e-5a0a-4b7c-8a5f-1c1f6f0c9b11
    name: deception
    title: Deception
    status: test
    severity: high
    scope: {phase: [answer], tenant: ["a*"]}
    signals:
      lie: {feature: deceit, agg: mean, window: 2 tokens, gte: 4.0}
    condition: lie
    limit: {per: request, max: 2}
    exceptions:
      - {name: let_off, when: {tenant: [acme]}, reason: "until then", expires: 2026-11-20}
    message: "a lie"
    tags: [harm.deception]
    falsepositives: []
"""
DAY_NS = 1_795_219_200 * 10**9  # 2026-11-21, when nobody is let off any more
PHASES = [PROMPT] * 3 + [ANSWER] * 7
DECEIT = [NAN, 9.0, 9.0, 0.0, 4.0, 4.25, 0.0, NAN, 3.75, 5.5]  # fires at 5 and at 9
CALM = [0.1] * 10


@pytest.fixture
def files(tmp_path: Path) -> RuleFiles:
    (tmp_path / "rules.yaml").write_text(RULES)
    return RuleFiles((tmp_path / "rules.yaml",), tmp_path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "alerts.sqlite"


def raised(files: RuleFiles, position: int, **fields: object) -> Alert:
    """One at a token of the request."""
    digest = load_rules([*files.items]).sha256
    values = {
        "req_id": "r", "rule_name": "deception", "ruleset_sha256": digest, "phase": "answer",
        "position": position, "first_position": position - 1, "time_ns": DAY_NS + 10**9, **fields,
    }  # fmt: skip
    return make_alert(**values)


def keep(path: Path, *alerts: Alert, **record: object) -> None:
    """The alerts, and the record of their request."""
    scores = np.stack([DECEIT, CALM], axis=1)
    values = {
        "req_id": "r", "features": ["deceit", "calm"], "scores": scores, "phases": PHASES,
        "texts": None, **record,
    }  # fmt: skip
    with Store(path) as store:
        for alert in alerts:
            store.add_alert(alert)
        store.add_request(make_request(**values))


def run(test: RuleTest, files: RuleFiles) -> list[str]:
    """What `saeguard test` says of each test of the file."""
    path = files.folder / test.name
    path.write_text(test.text)
    (result,) = run_files([path])
    assert not result.errors, result.errors
    assert not result.suite.warnings
    return [case.status for case in result.results]


def set_threshold(files: RuleFiles, threshold: float) -> None:
    path = files.folder / "rules.yaml"
    path.write_text(RULES.replace("gte: 4.0", f"gte: {threshold}"))


def test_a_true_positive_is_a_test_that_passes_until_the_rule_is_deaf_to_it(path, files):
    alerts = [raised(files, 5), raised(files, 9)]
    keep(path, *alerts)
    for alert in alerts:
        add_verdict(path, alert.id, "true_positive", "", "ada")
    test = rule_test(path, alerts[0], files)
    assert test.expects_alert
    assert run(test, files) == ["ok"]
    set_threshold(files, 5.0)
    assert run(test, files) == ["failed"]


@pytest.mark.parametrize("verdict", ["false_positive", "benign"])
def test_a_false_positive_is_a_test_that_fails_until_the_threshold_is_raised(path, files, verdict):
    alerts = [raised(files, 5), raised(files, 9)]
    keep(path, *alerts)
    for alert in alerts:
        add_verdict(path, alert.id, verdict, "", "ada")
    test = rule_test(path, alerts[1], files)
    assert not test.expects_alert
    assert run(test, files) == ["failed"]
    set_threshold(files, 5.3)
    assert run(test, files) == ["ok"]


def test_of_one_request_an_alert_may_be_right_and_another_wrong(path, files):
    wrong, right = raised(files, 5), raised(files, 9)
    keep(path, wrong, right)
    add_verdict(path, wrong.id, "false_positive", "", "ada")
    add_verdict(path, right.id, "true_positive", "", "ada")
    test = rule_test(path, wrong, files)
    assert run(test, files) == ["failed"]
    set_threshold(files, 4.5)
    assert run(test, files) == ["ok"]


def test_the_test_says_where_it_comes_from_and_nobody_can_write_into_it(path, files):
    hostile = "x\n    expect_none: []\u2028- \u202e'\"# {"
    alert = raised(files, 5, tenant=hostile)
    keep(path, alert, tenant="a" + hostile, model=hostile, client=hostile, scores=_one_lie())
    add_verdict(path, alert.id, "true_positive", hostile, hostile)
    test = rule_test(path, alert, files)
    assert run(test, files) == ["ok"]
    for told in (alert.id, "true positive by x", alert.ruleset_sha256[:12], "2026-11-21"):
        assert told in test.text
    loaded = yaml.safe_load(test.text)
    assert loaded["tests"][0]["request"] == {
        "model": hostile, "tenant": "a" + hostile, "client": hostile,
    }  # fmt: skip
    assert test.text.replace("\n", "").isprintable()
    assert rule_test(path, alert, files) == test, "it is the same again"
    assert test.name == f"deception-{alert.id[-12:]}_test.yaml"


def _one_lie() -> np.ndarray:
    deceit = [*DECEIT[:6], 0.0, 0.0, 0.0, 0.0]
    return np.stack([deceit, CALM], axis=1)


def test_only_scores_that_the_rule_reads_are_in_it(path, files):
    alert = raised(files, 5)
    keep(path, alert, scores=_one_lie())
    add_verdict(path, alert.id, "true_positive", "", "")
    stream = yaml.safe_load(rule_test(path, alert, files).text)["tests"][0]["stream"]
    assert stream == [
        {"phase": "prompt", "tokens": 3},
        {"phase": "answer", "tokens": 7, "features": {"deceit": "0 4 4.25 0x4"}},
    ]


def test_a_lost_token_does_not_break_the_answer_in_two(path, files):
    """The record has the code of no phase for it."""
    alert = raised(files, 9, first_position=8)
    deceit = [*DECEIT[:4], 0.0, 0.0, 0.0, NAN, 3.75, 5.5]
    scores = np.stack([deceit, [*CALM[:7], NAN, *CALM[8:]]], axis=1)
    keep(path, alert, scores=scores, phases=[*PHASES[:7], 0, *PHASES[8:]])
    add_verdict(path, alert.id, "true_positive", "", "")
    test = rule_test(path, alert, files)
    assert test.text.count("phase: answer") == 1
    assert "deceit: 0x4 _ 3.75 5.5" in test.text
    assert run(test, files) == ["ok"]


def test_of_rules_that_have_changed_since_the_test_is_made_all_the_same(path, files):
    alert = raised(files, 5)
    keep(path, alert, scores=_one_lie())
    add_verdict(path, alert.id, "false_positive", "", "")
    set_threshold(files, 5.0)
    test = rule_test(path, alert, files)
    assert "The rules have changed since" in test.text
    assert run(test, files) == ["ok"]


def refusal(path: Path, alert: Alert, files: RuleFiles) -> str:
    with pytest.raises(NoRuleTest) as error:
        rule_test(path, alert, files)
    return str(error.value)


def test_what_nobody_has_judged_or_reviewers_disagree_on_makes_no_test(path, files):
    alert, other = raised(files, 5), raised(files, 9)
    keep(path, alert, other)
    assert "nobody has said of it" in refusal(path, alert, files)
    add_verdict(path, alert.id, "unsure", "", "ada")
    assert "nobody has said of it" in refusal(path, alert, files)
    add_verdict(path, alert.id, "true_positive", "", "ada")
    assert f"nobody has said of its request's other alert of the rule, {other.id}" in refusal(
        path, alert, files
    )
    add_verdict(path, other.id, "true_positive", "", "ada")
    assert run(rule_test(path, alert, files), files) == ["ok"]
    add_verdict(path, other.id, "benign", "", "bob")
    assert f"the reviewers of its request's other alert of the rule, {other.id}, disagree" in (
        refusal(path, alert, files)
    )
    add_verdict(path, other.id, "none", "", "bob")
    assert run(rule_test(path, alert, files), files) == ["ok"]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"req_id": "other"}, "nothing is recorded of the request r: it still runs"),
        ({"first_recorded": 5}, "fired on tokens 4 to 5; recorded are tokens 5 to 14 of 10"),
        ({"scores": [], "phases": []}, "recorded are none of its 0 tokens"),
        ({"features": ["other", "calm"]}, "the rule reads deceit, which was not watched then"),
        ({"tenant": "blue"}, "does not fire at token 5: what is recorded (tokens 0 to 9 of 10)"),
        ({}, "also fires at token 9, of which there is no alert"),
    ],
)
def test_too_little_of_a_record_is_said(path, files, record, reason):
    alert = raised(files, 5)
    keep(path, alert, **record)
    add_verdict(path, alert.id, "true_positive", "", "")
    assert reason in refusal(path, alert, files)


def test_rules_without_the_alert_s_rule_are_refused(path, files):
    alert = raised(files, 5, rule_name="gone")
    keep(path, alert)
    add_verdict(path, alert.id, "true_positive", "", "")
    assert "the rules have no rule gone" in refusal(path, alert, files)


def test_what_the_monitor_says_of_itself_makes_no_test(path, files):
    alert = make_health_alert()
    keep(path, alert)
    add_verdict(path, alert.id, "true_positive", "", "")
    assert "about the monitor itself" in refusal(path, alert, files)


CAMPAIGN = """
  - id: 00000000-0000-4000-8000-000000000002
    name: campaign
    title: Again and again
    status: test
    severity: high
    correlate: {type: event_count, rules: [deception], group_by: [tenant], timespan: 2h, gte: 2}
    message: "again"
    tags: [harm.deception]
    falsepositives: []
"""


def a_campaign(path: Path, files: RuleFiles, num_named: int = 2, after_s: float = 3700.5) -> Alert:
    """An alert of a rule across two requests, both recorded."""
    rules = files.folder / "rules.yaml"
    rules.write_text(RULES + CAMPAIGN)
    matches = [
        CountedMatch("deception", f"r{i}", f"client-{i}", DAY_NS + int(i * after_s * 10**9))
        for i in range(2)
    ]
    evidence = CorrelationEvidence(
        "event_count", 7200.0, {"tenant": "acme"}, 2, matches[:num_named]
    )
    alert = raised(
        files, 5, req_id="r1", rule_name="campaign", kind="correlation", correlation=evidence
    )
    keep(path, alert, req_id="r0", scores=_one_lie())
    keep(path, req_id="r1", scores=_one_lie())
    return alert


def test_a_rule_across_requests_is_tested_with_all_of_them(path, files):
    alert = a_campaign(path, files)
    add_verdict(path, alert.id, "true_positive", "", "ada")
    test = rule_test(path, alert, files)
    assert "advance: 3700s" in test.text
    assert run(test, files) == ["ok"]
    add_verdict(path, alert.id, "benign", "", "ada")
    test = rule_test(path, alert, files)
    assert run(test, files) == ["failed"]
    (files.folder / "rules.yaml").write_text(
        RULES + CAMPAIGN.replace("timespan: 2h", "timespan: 1h")
    )
    assert run(test, files) == ["ok"]


def test_days_between_two_requests_can_be_written(path, files):
    alert = a_campaign(path, files, after_s=123_456)
    add_verdict(path, alert.id, "benign", "", "ada")
    rules = files.folder / "rules.yaml"
    rules.write_text(RULES + CAMPAIGN.replace("timespan: 2h", "timespan: 2d"))
    test = rule_test(path, alert, files)
    assert "advance: 2057m" in test.text
    assert run(test, files) == ["failed"]


def test_a_rule_across_requests_of_which_some_are_gone_makes_no_test(path, files):
    alert = a_campaign(path, files, num_named=1)
    add_verdict(path, alert.id, "true_positive", "", "ada")
    assert "the rule counted 2, and the alert names only the newest 1" in refusal(
        path, alert, files
    )
    again = a_campaign(path, files)
    matches = [*again.correlation.matches[:1], CountedMatch("deception", "gone", "gone", DAY_NS)]
    evidence = msgspec.structs.replace(again.correlation, matches=matches)
    alert = msgspec.structs.replace(again, id=new_alert_id(), correlation=evidence)
    add_verdict(path, alert.id, "true_positive", "", "ada")
    assert "nothing is recorded of the request gone" in refusal(path, alert, files)


def test_rules_are_named_as_seen_from_where_the_test_lies(path, tmp_path):
    (tmp_path / "rules").mkdir()
    files = RuleFiles((tmp_path / "rules", "pack:deception"), tmp_path / "tests")
    assert files.written == ["../rules", "pack:deception"]
    assert replace(files, folder=tmp_path).written == ["rules", "pack:deception"]


def test_the_shell_makes_the_same_test_and_runs_it(path, files, monkeypatch, capsys):
    saeguard = console_script(monkeypatch, capsys, files.folder)
    alert = raised(files, 5)
    keep(path, alert, scores=_one_lie())
    command = ("alerts", "to-test", alert.id[-8:], "rules.yaml", "--store", str(path))
    code, _, err = saeguard(*command)
    assert (code, err.startswith("error: nobody has said of it")) == (2, True)
    add_verdict(path, alert.id, "false_positive", "", "")
    code, out, _ = saeguard(*command)
    assert code == 0
    assert "expected no alerts of deception, got 1 at answer token 2" in out
    assert "fails until the rules are better" in out
    test = rule_test(path, alert, files)
    assert (files.folder / test.name).read_text() == test.text
    assert "is there already" in saeguard(*command)[2]
    set_threshold(files, 5.0)
    assert saeguard("test", test.name)[0] == 0


def test_an_alert_of_a_running_monitor_becomes_a_test_of_its_rules(tmp_path):
    with running_monitor(tmp_path) as monitor:
        monitor.lie_once("chatcmpl-1-abcd")
        wait_for(lambda: list_requests(monitor.store), 60)
        (alert,) = list_alerts(monitor.store)
        add_verdict(monitor.store, alert.id, "true_positive", "", "ada")
        files = RuleFiles((tmp_path / "rules.yaml",), tmp_path)
        assert run(rule_test(monitor.store, alert, files), files) == ["ok"]
        add_verdict(monitor.store, alert.id, "false_positive", "", "ada")
        assert run(rule_test(monitor.store, alert, files), files) == ["failed"]
