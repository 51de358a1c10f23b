"""Rule mutation testing: plays the tests with every mutant, and finds those that no test notices.

All mutants of a rule set are played at once: under names of their own, beside each other. So are
copies of the correlations that a mutated rule feeds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from saeguard.rules.model import Correlation, Rule, RuleSet
from saeguard.rules.recordings.offline import play
from saeguard.rules.testing.cases import Suite
from saeguard.rules.testing.derive import dependents, with_rules
from saeguard.rules.testing.judge import Happening, judge
from saeguard.rules.testing.mutants import Mutant, mutants
from saeguard.rules.testing.run import CaseResult, locate

_AT_ONCE = 200
_MARK = "~"  # occurs in no rule's name


@dataclass(frozen=True, slots=True)
class MutationScore:
    """How many changes of numbers some test notices."""

    mutants: frozenset[Mutant] = frozenset()
    noticed: frozenset[Mutant] = frozenset()

    def __or__(self, other: MutationScore) -> MutationScore:
        return MutationScore(self.mutants | other.mutants, self.noticed | other.noticed)

    @property
    def share(self) -> float:
        """Of those that are noticed, 0 to 1."""
        return len(self.noticed) / len(self.mutants) if self.mutants else 1.0

    @property
    def survivors(self) -> list[Mutant]:
        """Those that no test notices, in the order of the files."""
        return sorted(self.mutants - self.noticed)


def mutate(suite: Suite, results: Sequence[CaseResult]) -> MutationScore:
    """Try every mutant of a test file's rules.

    Args:
        suite: the test file.
        results: what came of its tests, none of which may have failed.
    """
    everyone = sorted(mutants(suite.ruleset))
    noticed: set[Mutant] = set()
    for start in range(0, len(everyone), _AT_ONCE):
        noticed |= _noticed(suite, results, everyone[start : start + _AT_ONCE])
    return MutationScore(frozenset(everyone), frozenset(noticed))


def _noticed(
    suite: Suite, results: Sequence[CaseResult], candidates: Sequence[Mutant]
) -> set[Mutant]:
    families = {
        number: _Family.of(suite.ruleset, mutant, number)
        for number, mutant in enumerate(candidates)
    }
    noticed = set()
    for result in results:
        happened = _play(suite.ruleset, result, families)
        for number, family in list(families.items()):
            if _is_noticed(result, family, happened.get(number, [])):
                noticed.add(candidates[number])
                del families[number]  # one test is enough
    return noticed


@dataclass(frozen=True, slots=True)
class _Family:
    """A mutant's rules and the correlations that they feed, renamed."""

    members: tuple[Rule, ...]
    names: frozenset[str]
    """As they were before."""

    @classmethod
    def of(cls, ruleset: RuleSet, mutant: Mutant, number: int) -> _Family:
        changed = {rule.name: rule for rule in mutant.changed}
        names = dependents(ruleset, frozenset(changed))
        return cls(
            tuple(
                _renamed(changed.get(rule.name, rule), names, f"{_MARK}{number}")
                for rule in ruleset.rules
                if rule.name in names
            ),
            names,
        )


def _renamed(rule: Rule, names: frozenset[str], mark: str) -> Rule:
    detection = rule.detection
    if isinstance(detection, Correlation):
        rules = tuple(name + mark if name in names else name for name in detection.rules)
        detection = replace(detection, rules=rules)
    return replace(rule, id=rule.id + mark, name=rule.name + mark, detection=detection)


def _play(
    ruleset: RuleSet, result: CaseResult, families: dict[int, _Family]
) -> dict[int, list[Happening]]:
    """What happened in each family, under the names that its rules had before."""
    members = [rule for family in families.values() for rule in family.members]
    feeders = _feeders(ruleset, members)
    everyone = with_rules(ruleset, (*feeders, *members))
    happened: dict[int, list[Happening]] = {}
    for happening in locate(result.case, play(everyone, result.case.requests)):
        name, mark, number = happening.rule.partition(_MARK)
        if mark:
            happened.setdefault(int(number), []).append(replace(happening, rule=name))
    return happened


def _feeders(ruleset: RuleSet, members: Sequence[Rule]) -> list[Rule]:
    """The rules, as they were before, that feed correlations among the members."""
    wanted: set[str] = set()
    reached = list(members)
    while reached:
        feeding = _fed_by(reached) - wanted
        wanted |= feeding
        reached = [rule for rule in ruleset.rules if rule.name in feeding]
    return [rule for rule in ruleset.rules if rule.name in wanted]


def _fed_by(rules: Iterable[Rule]) -> set[str]:
    return {
        name
        for rule in rules
        if isinstance(rule.detection, Correlation)
        for name in rule.detection.rules
    }


def _is_noticed(result: CaseResult, family: _Family, happened: Sequence[Happening]) -> bool:
    def is_unchanged(each: Happening) -> bool:
        return each.rule not in family.names or each.outcome == "uncovered"

    before = [each for each in result.happenings if not is_unchanged(each)]
    if Counter(before) == Counter(happened):
        return False
    others = [each for each in result.happenings if is_unchanged(each)]
    failures = judge(result.case, [*others, *happened])
    return not all(failure.is_todo for failure in failures)
