"""What became of each rule's matches in one request."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import NamedTuple

from saeguard.monitor.alerts import RuleCounts
from saeguard.rules.matches import Decision, Outcome


class _Kind(NamedTuple):
    """What distinguishes one decision from another in a request's account."""

    rule_id: str
    rule_name: str
    outcome: Outcome
    exception: str


class DecisionCounts:
    """How often it was decided so about a match. False while there was none."""

    def __init__(self) -> None:
        self._counts: Counter[_Kind] = Counter()

    def __bool__(self) -> bool:
        return bool(self._counts)

    def count(self, decision: Decision) -> None:
        """Enter what became of a match."""
        rule = decision.match.rule
        self._counts[_Kind(rule.id, rule.name, decision.outcome, decision.exception or "")] += 1

    def matches_by_id(self) -> dict[str, int]:
        """Rule id -> how often the rule has matched so far."""
        matches: Counter[str] = Counter()
        for kind, count in self._counts.items():
            matches[kind.rule_id] += count
        return dict(matches)

    def by_rule(self) -> dict[str, RuleCounts]:
        """By the names of the rules."""
        outcomes: dict[str, Counter[Outcome]] = defaultdict(Counter)
        suppressed: dict[str, Counter[str]] = defaultdict(Counter)
        for kind, count in self._counts.items():
            outcomes[kind.rule_name][kind.outcome] += count
            if kind.outcome == "suppressed":
                suppressed[kind.rule_name][kind.exception] += count
        return {
            name: RuleCounts(
                matches=counts.total(),
                emitted=counts["alert"],
                limited=counts["limited"],
                suppressed=dict(suppressed[name]),
                building_block=counts["building_block"],
                opted_out=counts["opted_out"],
            )
            for name, counts in sorted(outcomes.items())
        }
