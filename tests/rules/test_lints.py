"""What lints say about rules, and that they keep silent about good ones."""

from datetime import date
from pathlib import Path

import pytest
import yaml

from saeguard.rules import load_rules
from saeguard.rules.lints import HELP, lint_rules

TODAY = date(2026, 11, 21)


def rule(name="strong_lie", **keys):
    """A rule that no lint has anything to say about; None takes a key away."""
    number = sum(name.encode())
    good = {
        "id": f"00000000-0000-0000-0000-{number:012x}",
        "name": name,
        "title": "A strong lie",
        "status": "test",
        "severity": "high",
        "signals": {
            "lie": signal(agg="count", over=4.0, window="32 tokens", gte=5),
            "play": signal("roleplay", agg="mean", window="64 tokens", gte=1.5),
        },
        "condition": "lie and not play",
        "message": "{signal.lie.value} tokens",
        "falsepositives": ["fiction"],
    }
    return {key: value for key, value in (good | keys).items() if value is not None}


def signal(feature="lying", **keys):
    return {"feature": feature, **keys}


def exception(**keys):
    return {"name": "red_team", "when": {"tenant": ["red"]}, "reason": "drill", **keys}


def one_signal(**keys):
    """The keys of a rule with one signal."""
    return {"signals": {"s": signal(**keys)}, "condition": "s", "message": "{signal.s.value}"}


def correlation(name="campaign", **keys):
    correlate = {"type": "event_count", "rules": ["strong_lie"], "timespan": "10m", "gte": 3}
    correlate = {key: value for key, value in (correlate | keys).items() if value is not None}
    return rule(name, signals=None, condition=None, correlate=correlate, message="{count}")


def sequence(*steps, within="100 tokens", window="8 tokens", **keys):
    """The keys of a rule whose steps are (signal, phase, ...)."""
    when = [{"when": name, "phase": phases} for name, *phases in steps]
    signals = {
        "lie": signal(agg="max", window=window, gte=4.0),
        "claim": signal("roleplay", agg="max", window=window, gte=3.0),
    }
    return {
        "signals": signals,
        "condition": None,
        "message": "{signal.lie.value}",
        "sequence": {"steps": when, "within": within} | keys,
    }


FEATURES = {
    "lying": {"sae": {"path": "sae"}, "index": 1, "max": 10.0},
    "roleplay": {"probe": {"path": "probes.safetensors"}},
}


def write(folder, *rules, features=FEATURES):
    """A file of rules, and one of features, which may go unused there."""
    head = {"version": 1, "ruleset": {"name": "set", "version": "1"}}
    paths = folder / "features.yaml", folder / "rules.yaml"
    for path, keys in zip(paths, ({"features": features}, {"rules": list(rules)}), strict=True):
        path.write_text(yaml.safe_dump(head | keys, sort_keys=False))
    return paths


def lint(*paths, today=TODAY):
    return lint_rules(load_rules(paths), paths, today)


def remarks(folder, *rules):
    """`lint: message` of everything that is said about a set."""
    return [f"{found.lint}: {found.message}" for found in lint(*write(folder, *rules))]


def test_a_good_rule_is_left_in_peace(tmp_path):
    assert remarks(tmp_path, rule()) == []


GOOD = {
    "count of all of its window": one_signal(agg="count", over=1.0, window="4 tokens", gte=4),
    "value for several tokens": one_signal(agg="value", gte=4.0) | {"for": "4 tokens"},
    "max for longer than its window": (
        one_signal(agg="max", window="8 tokens", gte=4.0) | {"for": "9 tokens"}
    ),
    "max of two features": {
        "signals": {
            "a": signal(agg="max", window="8 tokens", gte=4.0),
            "b": signal("roleplay", agg="max", window="8 tokens", gte=4.0),
        },
        "condition": "a and b",
        "message": "{signal.a.value}",
    },
    "long mean with other evidence": {
        "signals": {
            "lie": signal(agg="mean", window="64 tokens", gte=1.0),
            "peak": signal(agg="topk_mean", k=4, window="64 tokens", gte=4.0),
        },
        "condition": "lie or peak",
        "message": "{signal.lie.value}",
    },
    "bounds of one aggregate that leave room": {
        "signals": {
            "low": signal(agg="mean", window="8 tokens", gte=2.0),
            "high": signal(agg="mean", window="8 tokens", lt=5.0),
        },
        "condition": "low and high",
        "message": "{signal.low.value}",
    },
    "the same bounds of two aggregates": {
        "signals": {
            "low": signal(agg="mean", window="8 tokens", gte=5.0),
            "high": signal(agg="mean", window="16 tokens", lt=3.0),
        },
        "condition": "low and high",
        "message": "{signal.low.value}",
    },
    "absence, which missing scores can make": {
        "signals": {
            "low": signal(agg="mean", window="8 tokens", lt=5.0),
            "high": signal(agg="mean", window="8 tokens", gte=5.0),
            "other": signal("roleplay", agg="mean", window="8 tokens", gt=1.0),
        },
        "condition": "other and not low and not high",
        "message": "{signal.low.value}",
    },
    "an exception for every tenant that has a name": {
        "exceptions": [exception(when={"tenant": ["*"], "model": ["*"]}, expires="2027-11-21")]
    },
    "globs with dots and dashes": {"scope": {"model": ["Qwen/Qwen2.*", "org/m-?b"]}},
    "a negative score of a probe": one_signal(
        feature="roleplay", agg="mean", window="8 tokens", lte=-1.0
    ),
    "an angle across 180 degrees": {
        "signals": {
            "turn": {
                "features": ["lying", "roleplay"],
                "combine": "angle",
                "agg": "value",
                "between": [170, -170],
            }
        },
        "condition": "turn",
        "message": "{signal.turn.value}",
    },
    "later phases of a sequence": (sequence(("lie", "prompt"), ("claim", "answer"))),
    "a window beyond within in which something must not have been": (
        sequence(("lie", "answer"), ("not claim", "answer"), within="8 tokens", window="64 tokens")
    ),
    "a window beyond within that no earlier step shares a phase with": (
        sequence(("lie", "reasoning"), ("claim", "answer"), within="8 tokens", window="64 tokens")
    ),
}


@pytest.mark.parametrize("keys", GOOD.values(), ids=GOOD)
def test_good_rules_are_left_in_peace(keys, tmp_path):
    assert remarks(tmp_path, rule(**keys)) == []


def contradiction(condition, **second):
    return {
        "signals": {
            "low": signal(agg="mean", window="8 tokens", gte=5.0),
            "high": signal(agg="mean", window="8 tokens", **second),
        },
        "condition": condition,
        "message": "{signal.low.value}",
    }


BAD = {
    "a count that its window cannot reach": (
        one_signal(agg="count", over=1.0, window="8 tokens", gte=9),
        "never-true: signal 's' can never be true",
    ),
    "a noisy-or above one": (
        one_signal(agg="noisy_or", one=5.0, window="8 tokens", gt=1.0),
        "never-true: signal 's' can never be true",
    ),
    "a negative score of an SAE": (
        one_signal(agg="mean", window="8 tokens", lt=0.0),
        "never-true: signal 's' can never be true",
    ),
    "any score of an SAE": (
        one_signal(agg="mean", window="8 tokens", gte=0.0),
        "always-true: signal 's' is true of every score there can be",
    ),
    "both of two that exclude each other": (
        contradiction("low and high", lt=3.0),
        "never-true: the condition can never be true, whatever the scores",
    ),
    "a signal and its opposite": (
        contradiction("low and high and not low", gt=1.0),
        "never-true: the condition can never be true, whatever the scores",
    ),
    "one of two that leave nothing out": (
        contradiction("low or high", lt=5.0),
        "always-true: the condition is true on every token, whatever the scores",
    ),
    "two of three that exclude each other": (
        contradiction("2 of (low, high, mid)", lt=3.0)
        | {
            "signals": {
                "low": signal(agg="mean", window="8 tokens", gte=5.0),
                "high": signal(agg="mean", window="8 tokens", lt=3.0),
                "mid": signal(agg="mean", window="8 tokens", between=[3.5, 4.5]),
            }
        },
        "never-true: the condition can never be true, whatever the scores",
    ),
    "a threshold above the maximum": (
        one_signal(agg="mean", window="8 tokens", gte=10.5),
        "above-maximum: signal 's' asks for more than 10, the largest known of lying",
    ),
    "a part of the maximum above all of it": (
        one_signal(agg="mean", window="8 tokens", gte="120% of max"),
        "above-maximum: signal 's' asks for more than 10, the largest known of lying",
    ),
    "a count over the maximum": (
        one_signal(agg="count", over=10.0, window="8 tokens", gte=2),
        "above-maximum: signal 's' counts scores over 10, the largest known of lying",
    ),
    "one high score": (
        one_signal(agg="max", window="16 tokens", gte=4.0),
        "single-token: one high score of 'lying' is enough to fire",
    ),
    "one high score, which a window keeps for as long as is asked": (
        one_signal(agg="max", window="16 tokens", gte=4.0) | {"for": "16 tokens"},
        "single-token: one high score of 'lying' is enough to fire",
    ),
    "a count of one": (
        one_signal(agg="count", over=4.0, window="16 tokens", gt=0),
        "single-token: one high score of 'lying' is enough to fire",
    ),
    "a mean of many tokens": (
        one_signal(agg="mean", window="64 tokens", gte=4.0),
        "diluted-mean: its only evidence is a mean, and 64 tokens dilute a burst",
    ),
    "a step of the prompt after one of the answer": (
        sequence(("claim", "answer"), ("lie", "system")),
        "impossible-order: step 1 is in the answer and step 2 in the system, which comes first "
        "in every request",
    ),
    "a step of the prompt after one of the answer, with one between": (
        sequence(("claim", "answer"), ("lie", "prompt", "answer"), ("lie", "prompt")),
        "impossible-order: step 1 is in the answer and step 3 in the prompt, which comes first "
        "in every request",
    ),
    "more steps than tokens": (
        sequence(
            ("lie", "answer"),
            ("claim", "answer"),
            ("lie", "answer"),
            within="1 token",
            window="1 token",
        ),
        "impossible-order: 3 steps on ever later tokens do not fit within 1",
    ),
    "a step that sees beyond the first": (
        sequence(("lie", "answer"), ("claim", "answer"), within="20 tokens", window="32 tokens"),
        "window-beyond-within: the window of 'claim' (32 tokens) reaches beyond the first "
        "step, which is at most 20 tokens back",
    ),
    "a deprecated rule": (
        {"status": "deprecated"},
        "deprecated: rule 'strong_lie' is deprecated",
    ),
    "an exception that has expired": (
        {"exceptions": [exception(expires="2026-11-20")]},
        "expired-exception: exception 'red_team' expired on 2026-11-20",
    ),
    "an exception on its last day": (
        {"exceptions": [exception(expires="2026-11-21")]},
        "expiring-exception: exception 'red_team' expires on 2026-11-21",
    ),
    "an exception without an end": (
        {"exceptions": [exception()]},
        "permanent-exception: exception 'red_team' never expires",
    ),
    "an exception for everybody": (
        {"exceptions": [exception(when={"model": ["x", "**"]}, expires="2027-11-21")]},
        "blanket-exception: exception 'red_team' lets off every request",
    ),
    "a regular expression in an exception": (
        {"exceptions": [exception(when={"client": ["^ci-.*$"]}, expires="2027-11-21")]},
        "regex-glob: exception 'red_team': '^ci-.*$' looks like a regular expression; globs know "
        "* and ?",
    ),
    "a class of characters in a scope": (
        {"scope": {"model": ["Qwen[23]*"]}},
        "regex-glob: scope: 'Qwen[23]*' looks like a regular expression; globs know * and ?",
    ),
    "no false positives": (
        {"falsepositives": None},
        "no-falsepositives: rule 'strong_lie' names no false positives",
    ),
    "a message without numbers": (
        {"message": "{rule.title} of {request.tenant}"},
        "bare-message: the message of 'strong_lie' shows nothing of what was measured",
    ),
    "a building block that nothing uses": (
        {"emit": False},
        "unused-block: no rule uses building block 'strong_lie', and it raises no alert",
    ),
}


@pytest.mark.parametrize(("keys", "expected"), BAD.values(), ids=BAD)
def test_bad_rules_are_told_what_is_wrong_and_nothing_else(keys, expected, tmp_path):
    assert remarks(tmp_path, rule(**keys)) == [expected]


def test_every_lint_is_seen_here_and_has_a_help_text():
    seen = {expected.split(":")[0] for _, expected in BAD.values()}
    elsewhere = {"unused-feature", "unreachable-count", "duplicate-rule", "bad-ignore"}
    elsewhere |= {"silencing-overlay", "repeated-overlay"}
    assert seen | elsewhere == set(HELP)
    assert all(text.endswith(".") and len(text) > 40 for text in HELP.values())


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


RULES = """\
version: 1
ruleset: {name: set, version: "1"}
features:
  lying: {sae: {path: sae}, index: 1}
  idle: {probe: {path: p}}
rules:
  - id: 00000000-0000-0000-0000-000000000001
    name: lie
    title: A lie
    status: deprecated
    severity: low
    signals:
      s: {feature: lying, agg: mean, window: 8 tokens, lt: 0}
    condition: s
    message: "{signal.s.value}"
    falsepositives: [fiction]
"""


def lint_text(folder, *edits):
    """`line:column lint` of what is not silenced, and the reasons for what is."""
    text = RULES
    for old, new in edits:
        assert old in text
        text = text.replace(old, new, 1)
    path = folder / "rules.yaml"
    path.write_text(text)
    found = lint(path)
    shown = [
        f"{each.location.line}:{each.location.column} {each.lint}"
        for each in found
        if each.reason is None
    ]
    return shown, [each.reason for each in found if each.reason is not None]


def test_remarks_stand_where_the_rule_the_signal_or_the_feature_is_written(tmp_path):
    shown, silenced = lint_text(tmp_path)
    assert shown == ["5:3 unused-feature", "7:5 deprecated", "13:7 never-true"]
    assert silenced == []


FEATURE, RULE, SIGNAL = "  idle: {probe: {path: p}}", "000000001\n", "lt: 0}\n"
IGNORES = {
    "on a feature's line": (FEATURE, f"{FEATURE}  # saeguard: ignore[unused-feature] for later"),
    "alone on the line above": (
        FEATURE,
        f"  # saeguard: ignore[unused-feature] for later\n{FEATURE}",
    ),
    "on a signal's line": (SIGNAL, "lt: 0}  # saeguard: ignore[never-true] for later\n"),
    "for a signal, on its rule's line": (
        RULE,
        "000000001  # saeguard: ignore[never-true] for later\n",
    ),
    "for one of several": (RULE, "000000001  # saeguard: ignore[deprecated] for later\n"),
}


@pytest.mark.parametrize("edit", IGNORES.values(), ids=IGNORES)
def test_a_comment_silences_one_remark_and_is_kept_as_its_reason(edit, tmp_path):
    shown, silenced = lint_text(tmp_path, edit)
    assert len(shown) == 2
    assert silenced == ["for later"]


def test_one_comment_can_silence_several_lints(tmp_path):
    shown, silenced = lint_text(
        tmp_path, (RULE, "000000001  # saeguard: ignore[deprecated, never-true] both\n")
    )
    assert shown == ["5:3 unused-feature"]
    assert silenced == ["both", "both"]


BAD_IGNORES = {
    "without a reason": (
        "ignore[deprecated]",
        "ignore needs a reason after the brackets; until then it silences nothing",
    ),
    "without a lint": (
        "ignore for later",
        "ignore needs the names of the lints: ignore[single-token] and a reason",
    ),
    "of an unknown lint": (
        "ignore[depricated] for later",
        "ignore names an unknown lint 'depricated', did you mean 'deprecated'?",
    ),
    "of nothing": (
        "ignore[single-token] for later",
        "nothing here is silenced by ignore[single-token]; remove it",
    ),
}


@pytest.mark.parametrize(("comment", "expected"), BAD_IGNORES.values(), ids=BAD_IGNORES)
def test_a_comment_that_does_not_silence_is_itself_a_remark(comment, expected, tmp_path):
    path = tmp_path / "rules.yaml"
    path.write_text(RULES.replace(RULE, f"000000001  # saeguard: {comment}\n", 1))
    found = [each for each in lint(path) if each.lint == "bad-ignore"]
    assert [each.message for each in found] == [expected]
    assert [each.location.line for each in found] == [7]
    assert "deprecated" in [each.lint for each in lint(path) if each.reason is None]


def test_the_demo_rules_are_lone_maxima_by_intention_and_otherwise_good():
    path = Path(__file__).parents[2] / "examples" / "organism" / "rules.yaml"
    found = lint(path)
    assert [each.message for each in found if each.reason is None] == []
    assert {each.lint for each in found} == {"single-token"}


def test_every_lint_is_in_the_documentation():
    text = (Path(__file__).parents[2] / "docs" / "checking-rules.md").read_text()
    assert [name for name in HELP if f"`{name}`" not in text] == []
