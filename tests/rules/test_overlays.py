"""Overlays change rules of other files before these are checked."""

from pathlib import Path

from saeguard.rules import load_rules
from tests.rules.samples import edited, findings

HEAD = "version: 1\nruleset: {name: site, version: '1'}\noverlays:\n"


def overlay(folder: Path, *lines: str, name: str = "site.yaml") -> Path:
    path = folder / name
    path.write_text(HEAD + "".join(f"  {line}\n" for line in lines))
    return path


def changed(folder: Path, *lines: str):
    (rule,) = load_rules([edited(folder), overlay(folder, *lines)]).rules
    return rule


def test_values_are_replaced_and_added(tmp_path):
    change = "{severity: low, signals.lie.gte: 7.5, limit.every: 1h, keep_firing_for: 3 tokens}"
    rule = changed(tmp_path, f"- rule: latent_deception\n    set: {change}")
    assert rule.severity == "low"
    assert rule.signals[0].threshold == 7.5
    assert (rule.limit.max, rule.limit.every_s) == (1, 3600)
    assert rule.keep_firing_for == 3


def test_mapping_that_the_rule_lacks_is_made(tmp_path):
    base = edited(tmp_path, ("    limit: {per: request, max: 1}\n", ""))
    path = overlay(tmp_path, "- {rule: latent_deception, set: {limit.max: 5}}")
    assert load_rules([base, path]).rules[0].limit.max == 5


def test_later_overlays_win_and_may_go_into_what_earlier_ones_put(tmp_path):
    rule = changed(
        tmp_path,
        "- {rule: latent_deception, set: {signals.lie.gte: 5.0}}",
        "- rule: latent_deception",
        "  set: {signals.lie: {feature: deceit, agg: value, gte: 6.0}}",
        "- {rule: latent_deception, set: {signals.lie.gte: 7.0}}",
    )
    assert (rule.signals[0].aggregate.kind, rule.signals[0].threshold) == ("value", 7.0)


def test_overlay_in_the_middle_of_a_set_applies_to_files_after_it(tmp_path):
    path = overlay(tmp_path, "- {rule: latent_deception, set: {severity: low}}")
    assert load_rules([path, edited(tmp_path)]).rules[0].severity == "low"


def test_exceptions_are_added_behind_those_of_the_rule(tmp_path):
    def entry(name: str) -> str:
        return f"{{name: {name}, when: {{tenant: [{name}]}}, reason: r}}"

    base = edited(tmp_path, ("    tags:", f"    exceptions: [{entry('own')}]\n    tags:"))
    first, second = (
        overlay(
            tmp_path,
            f"- {{rule: latent_deception, add_exceptions: [{entry(name)}]}}",
            name=f"{name}.yaml",
        )
        for name in ("one", "two")
    )
    (rule,) = load_rules([base, first, second]).rules
    assert [each.name for each in rule.exceptions] == ["own", "one", "two"]
    assert [each.location.path for each in rule.exceptions] == [base, first, second]


def test_mistakes_are_located_in_the_overlay(tmp_path):
    path = overlay(
        tmp_path,
        "- rule: latent_deception",
        "  set: {condition: lie or lye, signals.lie: {feature: deciet, agg: value, gte: 1}}",
        "  add_exceptions: [{name: a, when: {tenants: [b]}, reason: c}]",
    )
    assert findings(edited(tmp_path), path) == [
        "5:29: condition: unknown signal 'lye', did you mean 'lie'?",
        "5:57: unknown feature 'deciet', did you mean 'deceit'?",
        "6:39: unknown key 'tenants', did you mean 'tenant'?",
    ]


def test_what_the_overlay_replaced_is_no_longer_wrong(tmp_path):
    base = edited(tmp_path, ("gte: 4.0", "gte: four"))
    path = overlay(tmp_path, "- {rule: latent_deception, set: {signals.lie.gte: 4.0}}")
    assert load_rules([base, path]).rules[0].signals[0].threshold == 4.0


def test_rule_of_a_missing_file_is_not_held_against_the_overlay(tmp_path):
    path = overlay(tmp_path, "- {rule: latent_deception, set: {severity: low}}")
    assert findings(tmp_path / "missing.yaml", path) == ["1:1: No such file or directory"]


def test_mistakes_beside_the_change_stay_where_they_are(tmp_path):
    base = edited(tmp_path, ("severity: high", "severity: loud"))
    path = overlay(tmp_path, "- {rule: latent_deception, set: {signals.lie.gte: 4.0}}")
    assert findings(base, path)[0].startswith("13:15: severity")
