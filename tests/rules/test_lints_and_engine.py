"""What lints call impossible never happens in the engine, whatever the rules and the streams."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from saeguard.rules import Engine, Match, Rule, RuleSet
from saeguard.rules.lints import order, truth
from tests.rules import generate
from tests.rules.generate import FEATURES, Request

TODAY = date(2026, 11, 21)


def of_one_aggregate(rule: Rule) -> Rule:
    """The rule with signals that depend on each other: most compare the same aggregate."""
    aggregate = rule.signals[0].aggregate
    signals = tuple(
        signal if signal.comparison == "between" else replace(signal, aggregate=aggregate)
        for signal in rule.signals
    )
    return replace(rule, signals=signals)


def play(ruleset: RuleSet, request: Request) -> list[Match]:
    """What matches in a stream of scores like those of an SAE, which are never negative."""
    engine = Engine(ruleset, FEATURES, max_requests=1)
    engine.start("r", request.context)
    rows = np.array([0, len(request.phases)])
    return engine.observe(["r"], rows, abs(request.scores), request.positions, request.phases)


def test_what_is_called_impossible_never_happens():
    seen = {"signal": 0, "the condition": 0, "step": 0}

    @settings(
        max_examples=200,
        derandomize=True,
        phases=(Phase.generate,),
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(rule=generate.rules(0), requests=st.lists(generate.requests(), min_size=2, max_size=2))
    def check(rule, requests):
        ruleset = generate.rule_set(of_one_aggregate(rule))
        checks = truth.never_true, order.impossible_order
        messages = [remark.message for each in checks for remark in each(ruleset, TODAY)]
        if not messages:
            return
        matches = [match for request in requests for match in play(ruleset, request)]
        for message in messages:
            if message.startswith("signal '"):
                name = message.split("'")[1]
                assert not any(match.readings[name].holds for match in matches), message
            else:
                assert matches == [], message
            for kind in seen:
                seen[kind] += message.startswith(kind)

    check()
    assert all(seen.values()), seen  # else nothing was shown
