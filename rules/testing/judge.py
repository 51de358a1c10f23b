"""Compares what happened in a test with what was expected. An alert is claimed by one expectation.

First choose those that say where, then those that say which request or severity, then the rest. An
alert that is left over counts against an expectation about its rule, rather one that lacks an
alert, whether or not the test is strict; where there is none it fails a strict test. What an
`expect_none` forbids, no other expectation can claim.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from saeguard.rules.errors import Location
from saeguard.rules.matches import Outcome
from saeguard.rules.model import Severity
from saeguard.rules.phases import Phase
from saeguard.rules.testing.cases import Case, Expectation, Place

_FIRST = Place(Phase.SYSTEM, 0)
_MAX_LISTED = 5


@dataclass(frozen=True, slots=True)
class Happening:
    """What became of a match, or that a request missed a rule's `min_coverage`; and where."""

    rule: str
    severity: Severity
    outcome: Outcome | Literal["uncovered"]
    exception: str | None
    """That suppressed it."""
    request: int
    place: Place | None
    """None for a correlation, and for a request as a whole."""

    def where(self, case: Case) -> str:
        """`at answer token 3`, and in which request where the test has several."""
        if self.place is None:
            return f"in request {self.request}"
        return f"at {self.place}" + (f" in request {self.request}" if case.has_several else "")


@dataclass(frozen=True, slots=True)
class Failure:
    """Something that is not as expected."""

    location: Location
    message: str
    expectation: Expectation | None = None
    """None: an alert that nothing expects."""
    is_todo: bool = False
    """A known gap, which does not fail the test."""
    lacks_alert: bool = False
    """Too few alerts came, or not where they should."""


def judge(case: Case, happenings: Sequence[Happening]) -> list[Failure]:
    """Everything that is not as the test expects, in the order of the file."""
    alerts = [each for each in happenings if each.outcome in ("alert", "building_block")]
    claimed, left_over = _claim(case.expectations, alerts)
    failures = []
    pairs = zip(case.expectations, claimed, strict=True)
    for expectation, claims in sorted(pairs, key=lambda pair: _blame(*pair)):
        if expectation.kind in ("alert", "none"):
            extra = [each for each in left_over if _concerns(expectation, each)]
            left_over = [each for each in left_over if each not in extra]
            failures += _judge_alerts(case, expectation, claims, extra)
        else:
            failures += _judge_others(case, expectation, happenings)
    if case.strict:
        failures += [
            Failure(case.location, f"unexpected alert of {each.rule} {each.where(case)}")
            for each in left_over
            if each.outcome == "alert"
        ]
    return sorted(failures, key=lambda failure: failure.location)


def _claim(
    expectations: Sequence[Expectation], alerts: Sequence[Happening]
) -> tuple[list[list[Happening]], list[Happening]]:
    """For each expectation its alerts, at most as many as it counts; and those of none."""
    claimed: list[list[Happening]] = [[] for _ in expectations]
    bans = [each for each in expectations if _forbids(each)]
    forbidden = [alert for alert in alerts if any(_concerns(ban, alert) for ban in bans)]
    free = [alert for alert in alerts if alert not in forbidden]
    for i in sorted(range(len(expectations)), key=lambda i: _vagueness(expectations[i])):
        expectation = expectations[i]
        if expectation.kind != "alert":
            continue
        for place in _wanted(expectation):
            for alert in free:
                if _fits(expectation, alert) and place in (None, alert.place):
                    claimed[i].append(alert)
                    free.remove(alert)
                    break
    return claimed, [*free, *forbidden]


def _vagueness(expectation: Expectation) -> tuple[bool, bool, bool]:
    return not expectation.places, expectation.request is None, expectation.severity is None


def _forbids(expectation: Expectation) -> bool:
    return expectation.kind == "none" and not expectation.todo


def _blame(expectation: Expectation, claims: Sequence[Happening]) -> tuple[bool, bool]:
    """Sorts first what an alert that is left over counts against."""
    return not _forbids(expectation), not _lacks(expectation, claims)


def _wanted(expectation: Expectation) -> list[Place | None]:
    """One for each alert: its place, or None for anywhere."""
    anywhere = (expectation.count or 0) - len(expectation.places)
    return [*expectation.places, *[None] * anywhere]


def _concerns(expectation: Expectation, happening: Happening) -> bool:
    return expectation.rule == happening.rule and expectation.request in (None, happening.request)


def _fits(expectation: Expectation, alert: Happening) -> bool:
    return _concerns(expectation, alert) and expectation.severity in (None, alert.severity)


def _lacks(expectation: Expectation, claims: Sequence[Happening]) -> bool:
    return expectation.kind == "alert" and len(claims) < (expectation.count or 0)


def _judge_alerts(
    case: Case, expectation: Expectation, claims: Sequence[Happening], extra: Sequence[Happening]
) -> list[Failure]:
    too_few = _lacks(expectation, claims)
    if not too_few and not extra:
        return _holds(expectation)
    got = sorted([*claims, *extra], key=lambda each: (each.request, each.place or _FIRST))
    return [_failure(case, expectation, got, lacks_alert=too_few)]


def _judge_others(
    case: Case, expectation: Expectation, happenings: Iterable[Happening]
) -> list[Failure]:
    got = [
        each
        for each in happenings
        if _concerns(expectation, each)
        and each.outcome == expectation.kind
        and each.exception == expectation.exception
    ]
    if len(got) == expectation.count or (got and expectation.count is None):
        return _holds(expectation)
    return [_failure(case, expectation, got)]


def _holds(expectation: Expectation) -> list[Failure]:
    if not expectation.todo:
        return []
    message = f"no known gap any more, {_words(expectation)} came as expected: remove `todo: true`"
    return [Failure(expectation.location, message, expectation)]


def _failure(
    case: Case, expectation: Expectation, got: Sequence[Happening], lacks_alert: bool = False
) -> Failure:
    message = f"expected {_words(expectation)}, got {_listed(case, got)}"
    return Failure(expectation.location, message, expectation, expectation.todo, lacks_alert)


def _listed(case: Case, got: Sequence[Happening]) -> str:
    places = [each.where(case) for each in got[:_MAX_LISTED]]
    if len(got) <= 1:
        return f"1 {places[0]}" if got else "none"
    return f"{len(got)}: {', '.join(places)}{', …' if len(got) > _MAX_LISTED else ''}"


def _words(expectation: Expectation) -> str:
    """`2 alerts of lying at answer token 3 of severity high in request 1`."""
    noun = {
        "alert": "alert",
        "none": "alert",
        "suppressed": "match",
        "limited": "limited match",
        "uncovered": "uncovered request",
    }[expectation.kind]
    count = expectation.count
    number = "no" if expectation.kind == "none" else str(count) if count is not None else "some"
    plural = "" if count == 1 else "es" if noun.endswith("match") else "s"
    words = [f"{number} {noun}{plural} of {expectation.rule}"]
    if expectation.exception is not None:
        words.append(f" suppressed by {expectation.exception}")
    if expectation.places:
        words.append(f" at {' and '.join(map(str, expectation.places))}")
    if expectation.severity is not None:
        words.append(f" of severity {expectation.severity}")
    if expectation.request is not None:
        words.append(f" in request {expectation.request}")
    return "".join(words)
