"""What the tests of some rules have seen happen, and what not.

Of every signal, that it was true and that it was false; of every exception, that it suppressed a
match; of every rule, that it matched (a building block) or raised an alert.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

from saeguard.rules.errors import Location
from saeguard.rules.model import Rule, RuleSet, Signal
from saeguard.rules.recordings.offline import play
from saeguard.rules.testing.cases import Suite
from saeguard.rules.testing.derive import watching, with_rules
from saeguard.rules.testing.run import CaseResult


@dataclass(frozen=True, slots=True, order=True)
class Item:
    """Something that a test ought to show at least once."""

    location: Location
    rule: str
    subject: str
    """`signal peak`, `exception red_team`, or nothing: the rule itself."""
    never: str
    """What is to be said when no test shows it."""

    def __str__(self) -> str:
        return " ".join(filter(None, (self.rule, self.subject, self.never)))


@dataclass(frozen=True, slots=True)
class Coverage:
    """The items of some rules, and those among them that were seen."""

    items: frozenset[Item] = frozenset()
    seen: frozenset[Item] = frozenset()

    def __or__(self, other: Coverage) -> Coverage:
        return Coverage(self.items | other.items, self.seen | other.seen)

    @property
    def missing(self) -> list[Item]:
        """What no test shows, in the order of the files."""
        return sorted(self.items - self.seen)

    @property
    def share(self) -> float:
        """0 to 1."""
        return len(self.seen) / len(self.items) if self.items else 1.0


def measure_coverage(suite: Suite, results: Iterable[CaseResult]) -> Coverage:
    """What the tests of one file have seen of its rules.

    Args:
        suite: the test file.
        results: what came of its tests.
    """
    watchers, truths = _watchers(suite.ruleset)
    seen = set()
    for case in suite.cases:
        seen |= {truths[each.match.rule.name] for each in play(watchers, case.requests)}
    rules = {rule.name: rule for rule in suite.ruleset.rules}
    for happening in chain.from_iterable(result.happenings for result in results):
        rule = rules[happening.rule]
        if happening.exception is not None:
            seen.add(_exception_item(rule, happening.exception))
        elif happening.outcome not in ("limited", "uncovered"):
            seen.add(_rule_item(rule))
    return Coverage(frozenset([*truths.values(), *_rule_items(suite.ruleset)]), frozenset(seen))


def _watchers(ruleset: RuleSet) -> tuple[RuleSet, dict[str, Item]]:
    """Rules that match where a signal is true or false, and what a match of each shows."""
    watchers, truths = [], {}
    for rule in ruleset.rules:
        for signal in rule.signals:
            for truth in (True, False):
                watcher = watching(rule, signal, truth, f"{rule.name}: {signal.name} {truth}")
                watchers.append(watcher)
                truths[watcher.name] = _signal_item(rule, signal, truth)
    return with_rules(ruleset, tuple(watchers)), truths


def _signal_item(rule: Rule, signal: Signal, truth: bool) -> Item:
    """A building block's signal is the block's, whichever rule looks at it."""
    block, _, name = signal.name.rpartition(".")
    where, never = signal.location or rule.location, f"was never {str(truth).lower()}"
    return Item(where, block or rule.name, f"signal {name}", never)


def _rule_items(ruleset: RuleSet) -> Iterator[Item]:
    for rule in ruleset.rules:
        yield _rule_item(rule)
        for exception in rule.exceptions:
            yield _exception_item(rule, exception.name)


def _rule_item(rule: Rule) -> Item:
    never = "never alerted" if rule.emit else "never matched"
    return Item(rule.location, rule.name, "", never)


def _exception_item(rule: Rule, name: str) -> Item:
    return Item(rule.location, rule.name, f"exception {name}", "was never used")
