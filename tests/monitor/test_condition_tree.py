"""The condition that an alert keeps is true where the rule says so."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from fake_engine import write_rules

from saeguard.monitor.condition_tree import condition_tree
from saeguard.rules import Phase, load_rules
from saeguard.rules.conditions import parse_condition
from saeguard.rules.model import Correlation, Rule, Step, StepSequence

NAMES = ("lie", "calm", "hint_a", "hint_b")


def rule_with(text: str, rule: Rule) -> Rule:
    return replace(rule, detection=parse_condition(text, NAMES))


@pytest.fixture
def rule(tmp_path) -> Rule:
    return load_rules([write_rules(tmp_path)]).rules[0]


def drawn(rule: Rule, **holds: bool) -> list[str]:
    lines = condition_tree(rule, holds)
    return [f"{'  ' * line.depth}{line.text} {'+' if line.holds else '-'}" for line in lines]


def test_it_is_drawn_as_a_tree(rule: Rule):
    rule = rule_with("lie and (2 of (hint_*, calm) or not calm)", rule)
    assert drawn(rule, lie=True, calm=False, hint_a=True, hint_b=False) == [
        "all of +",
        "  lie +",
        "  any of +",
        "    at least 2 of 3 -",
        "      hint_a +",
        "      hint_b -",
        "      calm -",
        "    not +",
        "      calm -",
    ]


@pytest.mark.parametrize(
    ("text", "python"),
    [
        ("lie and not calm", "lie and not calm"),
        ("any of hint_* or lie", "hint_a or hint_b or lie"),
        ("not (all of hint_*) and 1 of (lie, calm)", "not (hint_a and hint_b) and (lie or calm)"),
    ],
)
def test_it_is_true_where_the_condition_is(rule: Rule, text: str, python: str):
    for values in itertools.product((False, True), repeat=4):
        holds = dict(zip(NAMES, values, strict=True))
        (whole, *_) = condition_tree(rule_with(text, rule), holds)
        assert whole.holds == eval(python, {}, holds)


def test_the_steps_of_a_sequence_come_in_their_order(rule: Rule):
    steps = (
        Step(parse_condition("lie"), frozenset({Phase.REASONING})),
        Step(parse_condition("not calm"), frozenset({Phase.ANSWER})),
    )
    rule = replace(rule, detection=StepSequence(steps, within=9))
    assert drawn(rule, lie=True, calm=False) == [
        "one after the other, within 9 tokens +",
        "  in reasoning +",
        "    lie +",
        "  in answer +",
        "    not +",
        "      calm -",
    ]


def test_a_rule_across_requests_has_none(rule: Rule):
    correlation = Correlation.__new__(Correlation)
    assert condition_tree(replace(rule, detection=correlation), {}) == []
