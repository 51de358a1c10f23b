"""Rules in plain language: every kind of rule as a person would explain it."""

import re
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from saeguard.rules import load_rules
from saeguard.rules.explain import explain
from saeguard.rules.model import Correlation
from tests.rules.samples import one_rule

FOLDER = Path(__file__).with_name("explained")
TODAY = date(2026, 11, 21)


def explained(ruleset, name="the_rule", today=TODAY, width=88):
    rule = next(rule for rule in ruleset.rules if rule.name == name)
    return explain(ruleset, rule, today, width)


def test_overlays_that_changed_the_rule_are_named(tmp_path):
    path = tmp_path / "site.yaml"
    path.write_text(
        "version: 1\nruleset: {name: site, version: '1'}\noverlays:\n"
        "  - {rule: deceptive_reasoning, set: {severity: low}}\n"
    )
    text = explained(load_rules([FOLDER / "rules.yaml", path]), "deceptive_reasoning", width=999)
    assert f"Overlays changed its severity ({path}:4)." in text


@pytest.mark.parametrize(
    "name",
    ["deceptive_reasoning", "framed", "lie_then_claim", "campaign", "direction", "contracts"],
)
def test_the_words_are_those_that_were_agreed_on(name, monkeypatch):
    """Mend a golden text only after reading the new one aloud."""
    monkeypatch.chdir(FOLDER)
    text = explained(load_rules(["rules.yaml"]), name)
    assert f"{text}\n" == Path(f"{name}.txt").read_text()


SIGNALS = {
    "the 3rd largest score of `a` in the last 8 tokens is below 1": {
        "agg": "min_evidence",
        "k": 3,
        "window": "8 tokens",
        "lt": 1.0,
    },
    "the score of `a` is above 1": {"agg": "value", "gt": 1.0},
    "the largest score of `a` in the last 8 tokens is at most 1": {
        "agg": "max",
        "window": "8 tokens",
        "lte": 1.0,
    },
    "the mean score of `a` over the last 1 token is between 1 and 2": {
        "agg": "mean",
        "window": "1 token",
        "between": [1.0, 2.0],
    },
    "the sum of the scores of `a` over the last 8 tokens is at least 1": {
        "agg": "sum",
        "window": "8 tokens",
        "gte": 1.0,
    },
    "fewer than 3 of the last 8 tokens score above 1 on `a`": {
        "agg": "count",
        "over": 1.0,
        "window": "8 tokens",
        "lt": 3,
    },
    "at least 3 of the last 8 tokens score above 1 on `a`": {
        "agg": "min_evidence",
        "k": 3,
        "window": "8 tokens",
        "gt": 1.0,
    },
}


@pytest.mark.parametrize(("words", "signal"), SIGNALS.items(), ids=SIGNALS)
def test_each_signal_is_a_phrase(words, signal, tmp_path):
    ruleset = one_rule(tmp_path, signals={"s": {"feature": "a"} | signal})
    assert f"- s: {words}\n" in explained(ruleset, width=200)


OPPOSITES = {"gt": "at most 1", "gte": "below 1", "lt": "at least 1", "lte": "above 1"}


@pytest.mark.parametrize(("comparison", "words"), OPPOSITES.items())
def test_a_negated_signal_is_its_opposite_and_missing_scores_are_spoken_of(
    comparison, words, tmp_path
):
    signals = {"s": {"feature": "a", "agg": "value", comparison: 1.0}}
    text = explained(one_rule(tmp_path, signals=signals, condition="not s"))
    assert f"- not s: the score of `a` is {words}\n" in text
    assert "also true where nothing of it was observed" in text


CORRELATIONS = {
    "When there are more than 2 matches of `a` or `b` within 90s, over all requests.": {
        "type": "event_count",
        "comparison": "gt",
        "threshold": 2,
        "timespan_s": 90,
    },
    "When matches of `a` or `b` within 1h come from at least 3 different LoRAs, counted for "
    "each tenant separately.": {
        "type": "value_count",
        "threshold": 3,
        "field": "lora",
        "group_by": ("tenant",),
    },
    "When `a` and `b` have all matched within 1h, in any order, over all requests.": {
        "type": "temporal"
    },
    "When `a`, then `b` have matched in this order within 1h, over all requests.": {
        "type": "temporal_ordered"
    },
}


@pytest.mark.parametrize(("words", "keys"), CORRELATIONS.items(), ids=CORRELATIONS)
def test_each_correlation_is_a_sentence(words, keys, tmp_path):
    ruleset = one_rule(tmp_path)
    keys = {"rules": ("a", "b"), "group_by": (), "timespan_s": 3600} | keys
    rule = replace(ruleset.rules[0], detection=Correlation(**keys), signals=())
    fed = [replace(ruleset.rules[0], name=name) for name in ("a", "b")]
    ruleset = replace(ruleset, rules=(*fed, rule))
    assert f"  {words}\n" in explained(ruleset, width=200)


def test_an_exception_that_has_expired_mutes_nothing():
    ruleset = load_rules([FOLDER / "rules.yaml"])
    text = " ".join(explained(ruleset, "deceptive_reasoning").split())
    assert "ended on 2026-01-31: it mutes nothing" in text
    text = " ".join(explained(ruleset, "deceptive_reasoning", date(2026, 1, 31)).split())
    assert "mutes nothing" not in text


def test_lines_are_as_wide_as_asked_unless_a_word_is_wider():
    ruleset = load_rules([FOLDER / "rules.yaml"])
    for rule in ruleset.rules:
        lines = explain(ruleset, rule, TODAY, 60).splitlines()[1:]
        assert all(len(line) <= 60 or len(re.findall(r"\S{40,}", line)) == 1 for line in lines)
