"""What lints say about rules that have to do with each other, and about overlays."""

import yaml

from tests.rules.linting import (
    FEATURES,
    correlation,
    exception,
    lint,
    one_signal,
    remarks,
    rule,
    write,
)


def test_a_feature_that_no_rule_of_its_file_uses_is_named(tmp_path):
    path = tmp_path / "rules.yaml"
    head = {"version": 1, "ruleset": {"name": "set", "version": "1"}}
    unused = {"idle": {"probe": {"path": "p"}}}
    path.write_text(yaml.safe_dump(head | {"features": FEATURES | unused, "rules": [rule()]}))
    assert [found.message for found in lint(path)] == ["no rule uses feature 'idle'"]


def test_overlays_that_silence_a_rule_or_set_a_key_again_are_named(tmp_path):
    overlays = [
        {"rule": "strong_lie", "set": {"severity": "low", "signals.lie.gte": 6}},
        {"rule": "strong_lie", "set": {"severity": "info", "emit": False}},
        {"rule": "strong_lie", "add_exceptions": [exception(name="a", expires="2027-11-21")]},
        {"rule": "strong_lie", "add_exceptions": [exception(name="b", expires="2027-11-21")]},
    ]
    path = tmp_path / "site.yaml"
    head = {"version": 1, "ruleset": {"name": "site", "version": "1"}}
    path.write_text(yaml.safe_dump(head | {"overlays": overlays}))
    found = lint(*write(tmp_path, rule()), path)
    assert {each.lint: each.message for each in found if each.location.path == path} == {
        "silencing-overlay": "this overlay takes the alerts of rule 'strong_lie' away",
        "repeated-overlay": f"severity of 'strong_lie' was set at {path}:4:5 already",
    }


def test_an_overlay_that_lets_clients_opt_out_of_a_mandatory_rule_is_named(tmp_path):
    path = tmp_path / "site.yaml"
    overlays = [{"rule": "strong_lie", "set": {"mandatory": False}}]
    head = {"version": 1, "ruleset": {"name": "site", "version": "1"}}
    path.write_text(yaml.safe_dump(head | {"overlays": overlays}))
    found = lint(*write(tmp_path, rule(mandatory=True)), path)
    assert [(each.lint, each.message) for each in found] == [
        ("silencing-overlay", "this overlay lets clients opt out of rule 'strong_lie'")
    ]
    assert not lint(*write(tmp_path, rule()), path), "nothing was taken away"


def test_an_overlay_that_leaves_a_building_block_silent_is_not_spoken_of(tmp_path):
    path = tmp_path / "site.yaml"
    overlays = [{"rule": "block", "set": {"emit": False}}]
    head = {"version": 1, "ruleset": {"name": "site", "version": "1"}}
    path.write_text(yaml.safe_dump(head | {"overlays": overlays}))
    block = rule("block", emit=False, message="x", falsepositives=None)
    user = rule(condition="lie and not play and block")
    assert not [each for each in lint(*write(tmp_path, block, user), path)]


def test_an_exception_is_not_spoken_of_a_month_before_it_expires(tmp_path):
    assert remarks(tmp_path, rule(exceptions=[exception(expires="2026-12-22")])) == []


def test_a_correlation_of_more_rules_than_it_counts_is_named(tmp_path):
    other = rule("other", **one_signal(agg="mean", window="8 tokens", gte=2.0))
    rules = {"rules": ["strong_lie", "other"], "type": "value_count", "field": "rule"}
    assert remarks(tmp_path, rule(), other, correlation(**rules, gte=3)) == [
        "unreachable-count: it asks for 3 distinct rules, and counts matches of 2"
    ]
    assert remarks(tmp_path, rule(), other, correlation(**rules, gte=2)) == []


def test_what_builds_on_a_deprecated_rule_is_named_with_it(tmp_path):
    block = rule("block", emit=False, status="deprecated", message="x", falsepositives=None)
    user = rule(condition="lie and not play and block")
    assert remarks(tmp_path, block, user, correlation(rules=["block"])) == [
        "deprecated: rule 'block' is deprecated",
        "deprecated: rule 'strong_lie' builds on 'block', which is deprecated",
        "deprecated: rule 'campaign' builds on 'block', which is deprecated",
    ]


def test_rules_that_ask_for_the_same_under_other_names_are_told_apart_from_the_rest(tmp_path):
    renamed = rule(
        "renamed",
        severity="low",
        signals={
            "fiction": rule()["signals"]["play"],
            "untrue": rule()["signals"]["lie"],
        },
        condition="not fiction and untrue",
        message="{signal.untrue.value}",
    )
    elsewhere = rule("elsewhere", scope={"phase": ["answer"]})
    longer = rule("longer", **{"for": "2 tokens"})
    (remark,) = remarks(tmp_path, rule(), renamed, elsewhere, longer)
    assert remark.startswith("duplicate-rule: rule 'renamed' asks for the same as 'strong_lie'")
