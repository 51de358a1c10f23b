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
    """A correlation that needs more than there can be: more distinct rules than it counts, or
    different rules in a group that is one rule's own. It never matches; correct the number, or
    `group_by`."""
    for rule in ruleset.rules:
        correlation = rule.detection
        if not isinstance(correlation, Correlation):
            continue
        needed = correlation.threshold + (correlation.comparison == "gt")
        if correlation.field == "rule" and needed > len(correlation.rules):
            yield about(rule, f"{len(correlation.rules)} rules never make {needed} distinct ones")
        if "rule" in correlation.group_by and correlation.type.startswith("temporal"):
            yield about(rule, "each group holds the matches of one rule only, so they never meet")
