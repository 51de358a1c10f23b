"""Plays the tests of a suite, with the engine and the decisions of production."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from time import perf_counter
from typing import Literal

import numpy as np

from saeguard.rules.matches import Decision, Match
from saeguard.rules.model import RuleSet
from saeguard.rules.recordings.offline import RecordedRequest, play, request_keys
from saeguard.rules.recordings.uncovered import uncovered_rules
from saeguard.rules.testing.cases import Case, Place, Suite
from saeguard.rules.testing.judge import Failure, Happening, judge
from saeguard.rules.testing.nearest import explain

Status = Literal["ok", "failed", "todo"]


@dataclass(frozen=True, slots=True)
class Report:
    """A failure, and what may help to understand it."""

    failure: Failure
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CaseResult:
    """What came of one test."""

    case: Case
    happenings: tuple[Happening, ...]
    reports: tuple[Report, ...]
    seconds: float

    @property
    def status(self) -> Status:
        """`todo` when only known gaps failed."""
        if not self.reports:
            return "ok"
        return "todo" if all(report.failure.is_todo for report in self.reports) else "failed"

    @property
    def uncovered(self) -> list[Happening]:
        """Requests that missed a rule's `min_coverage`, where the test does not speak of that."""
        spoken = {each.rule for each in self.case.expectations if each.kind == "uncovered"}
        found = [each for each in self.happenings if each.outcome == "uncovered"]
        return [each for each in found if each.rule not in spoken]


def run_suite(suite: Suite) -> Iterator[CaseResult]:
    """Run every test of a file, in order."""
    for case in suite.cases:
        started = perf_counter()
        matched = tuple(locate(case, play(suite.ruleset, case.requests)))
        happenings = (*matched, *_uncovered(suite.ruleset, case))
        failures = judge(case, happenings)
        seconds = perf_counter() - started
        reports = tuple(
            Report(failure, tuple(explain(suite.ruleset, case, failure, matched)))
            for failure in failures
        )
        yield CaseResult(case, happenings, reports, seconds)


def locate(case: Case, decisions: Iterable[Decision]) -> Iterator[Happening]:
    """Find the request and the token of each decision."""
    number_of = {key: number for number, key in enumerate(request_keys(case.requests))}
    for decision in decisions:
        match = decision.match
        if isinstance(match, Match):
            number = number_of[match.key]
            place = _place(case.requests[number], match)
        else:
            number = number_of[match.events[-1].key]
            place = None
        rule = match.rule
        yield Happening(
            rule.name, rule.severity, decision.outcome, decision.exception, number, place
        )


def _uncovered(ruleset: RuleSet, case: Case) -> Iterator[Happening]:
    for number, request in enumerate(case.requests):
        for rule in uncovered_rules(ruleset, request):
            yield Happening(rule.name, rule.severity, "uncovered", None, number, None)


def _place(request: RecordedRequest, match: Match) -> Place:
    row = int(np.searchsorted(request.positions, match.position))
    return Place(match.phase, int(np.count_nonzero(request.phases[:row] == match.phase)))
