"""What a rule set makes of recorded requests, and how two rule sets differ in that."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from saeguard.monitor.tokens import NOT_CAPTURED
from saeguard.rules import RuleSet, render_message
from saeguard.rules.matches import Decision, Match, Outcome
from saeguard.rules.recordings.offline import RecordedRequest, play, request_keys
from saeguard.rules.recordings.uncovered import uncovered_rules


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A token of a request."""

    position: int
    phase: str
    token: int
    """Counted within its phase, from 0."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """What became of one match. The place of a correlation is None: it is in no one token."""

    rule: str
    severity: str
    request: str
    place: Place | None
    outcome: Outcome
    exception: str | None
    message: str


def replay(ruleset: RuleSet, requests: Sequence[RecordedRequest]) -> list[Replayed]:
    """Everything that matched, in the order of time.

    Raises:
        RecordingError: a request has no scores of a feature that the rules read.
    """
    by_key = dict(zip(request_keys(requests), requests, strict=True))
    return [_replayed(decision, by_key) for decision in play(ruleset, requests)]


def count_outcomes(ruleset: RuleSet, found: Sequence[Replayed]) -> dict[str, Counter[Outcome]]:
    """Name of the rule -> how often what became of its matches, for every rule of the set."""
    counts: dict[str, Counter[Outcome]] = {rule.name: Counter() for rule in ruleset.rules}
    for each in found:
        counts[each.rule][each.outcome] += 1
    return counts


def find_uncovered(ruleset: RuleSet, requests: Sequence[RecordedRequest]) -> dict[str, list[str]]:
    """Name of the rule -> the requests that miss its `min_coverage`, where there are any."""
    found: dict[str, list[str]] = {}
    for key, request in zip(request_keys(requests), requests, strict=True):
        for rule in uncovered_rules(ruleset, request):
            found.setdefault(rule.name, []).append(key)
    return found


@dataclass(frozen=True, slots=True)
class Change:
    """An alert that only one rule set raises (the other side is None), or at different places."""

    old: Replayed | None
    new: Replayed | None

    @property
    def either(self) -> Replayed:
        """The new alert, or the old one where it is gone."""
        alert = self.new or self.old
        assert alert is not None
        return alert

    @property
    def kind(self) -> str:
        """`added`, `removed` or `moved`."""
        if self.old is None:
            return "added"
        return "removed" if self.new is None else "moved"


def changes(old: Sequence[Replayed], new: Sequence[Replayed]) -> list[Change]:
    """How the alerts differ, by rule and request.

    Of the alerts of one rule in one request, those at a place of their own are paired in order.
    """
    before, after = _alerts(old), _alerts(new)
    return [
        change
        for key in dict.fromkeys([*after, *before])
        for change in _changes(before.get(key, []), after.get(key, []))
    ]


def _changes(old: list[Replayed], new: list[Replayed]) -> Iterator[Change]:
    old_places, new_places = (Counter(each.place for each in alerts) for alerts in (old, new))
    gone = _only(old, old_places - new_places)
    come = _only(new, new_places - old_places)
    num_moved = min(len(gone), len(come))
    yield from map(Change, gone[:num_moved], come[:num_moved])
    yield from (Change(alert, None) for alert in gone[num_moved:])
    yield from (Change(None, alert) for alert in come[num_moved:])


def _only(alerts: list[Replayed], places: Counter[Place | None]) -> list[Replayed]:
    """So many alerts of each place."""
    left, found = Counter(places), []
    for alert in alerts:
        if left[alert.place]:
            left[alert.place] -= 1
            found.append(alert)
    return found


def _alerts(found: Sequence[Replayed]) -> dict[tuple[str, str], list[Replayed]]:
    alerts: dict[tuple[str, str], list[Replayed]] = {}
    for each in found:
        if each.outcome == "alert":
            alerts.setdefault((each.rule, each.request), []).append(each)
    return alerts


def _replayed(decision: Decision, requests: dict[str, RecordedRequest]) -> Replayed:
    match = decision.match
    key = match.key if isinstance(match, Match) else match.events[-1].key
    request = requests[key]
    return Replayed(
        rule=match.rule.name,
        severity=match.rule.severity,
        request=key,
        place=_place(match, request) if isinstance(match, Match) else None,
        outcome=decision.outcome,
        exception=decision.exception,
        message=render_message(match, decision.context, lambda at: _token_text(request, at)),
    )


def _place(match: Match, request: RecordedRequest) -> Place:
    before = request.phases[: _row(request, match.position)]
    token = int(np.count_nonzero(before == match.phase))
    return Place(match.position, str(match.phase), token)


def _token_text(request: RecordedRequest, position: int) -> str:
    if request.token_ids is None:
        return NOT_CAPTURED
    return f"[token {request.token_ids[_row(request, position)]}]"


def _row(request: RecordedRequest, position: int) -> int:
    return int(np.searchsorted(request.positions, position))
