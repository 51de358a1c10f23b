"""What lints say about a rule, and that they keep silent about good ones."""

from pathlib import Path

import pytest

from saeguard.rules.lints import HELP
from tests.rules.linting import (
    exception,
    lint,
    one_signal,
    remarks,
    rule,
    sequence,
    signal,
)


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
    "a mandatory stop that lets off models and has let off others": {
        "action": "stop",
        "mandatory": True,
        "exceptions": [
            exception(when={"model": ["test-*"]}, expires="2027-11-21"),
        ],
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
    "a mandatory rule that lets off who claims to be meant": (
        {"mandatory": True, "exceptions": [exception(expires="2027-11-21")]},
        "claimed-exemption: exception 'red_team' lets off whoever claims to be meant",
    ),
    "a mandatory rule for some who say who they are": (
        {"mandatory": True, "scope": {"tenant": ["acme"]}},
        "claimed-exemption: its scope leaves out whoever claims another tenant, or none",
    ),
    "a stop that clients can opt out of": (
        {"action": "stop"},
        "optional-stop: clients can opt out of rule 'strong_lie', which stops requests",
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


def test_the_demo_rules_are_lone_maxima_by_intention_and_otherwise_good():
    path = Path(__file__).parents[2] / "examples" / "organism" / "rules.yaml"
    found = lint(path)
    assert [each.message for each in found if each.reason is None] == []
    assert {each.lint for each in found} == {"single-token"}


def test_every_lint_is_in_the_documentation():
    text = (Path(__file__).parents[2] / "docs" / "checking-rules.md").read_text()
    assert [name for name in HELP if f"`{name}`" not in text] == []
