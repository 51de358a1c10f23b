"""Lints of names that nothing uses, and of correlations that nothing can feed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date

from saeguard.rules.lints.finding import Remark, about
from saeguard.rules.model import Correlation, RuleSet


def unused_feature(ruleset: RuleSet, today: date) -> Iterator[Remark]:
    """A feature that no signal reads, in a file with rules of its own. It is not watched; remove
    it, or use it in a rule. A file of nothing but features is one to choose from."""
    used = set(ruleset.used_features())
    files = {rule.location.path for rule in ruleset.rules}
    for feature in ruleset.features.values():
        if feature.name not in used and feature.location.path in files:
            yield Remark(feature.location, f"no rule uses feature '{feature.name}'")


def unused_block(ruleset: RuleSet, today: date) -> Iterator[Remark]:
    """A rule with `emit: false` that no condition names and no correlation counts. It raises no
    alert and feeds nothing; use it, or let it emit."""
    used = {signal.name.rpartition(".")[0] for rule in ruleset.rules for signal in rule.signals}
    for rule in ruleset.rules:
        if isinstance(rule.detection, Correlation):
            used |= set(rule.detection.rules)
    for rule in ruleset.rules:
        if not rule.emit and rule.name not in used:
            yield about(rule, f"no rule uses building block '{rule.name}', and it raises no alert")


def unreachable_count(ruleset: RuleSet, today: date) -> Iterator[Remark]:
    """A correlation that asks for matches of more distinct rules than it counts. It never
    matches; correct the number, or add rules."""
    for rule in ruleset.rules:
        match rule.detection:
            case Correlation(field="rule") as correlation:
                needed = correlation.threshold + (correlation.comparison == "gt")
                known = len(correlation.rules)
                if needed > known:
                    yield about(
                        rule, f"it asks for {needed} distinct rules, and counts matches of {known}"
                    )
