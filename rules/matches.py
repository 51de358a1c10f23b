"""What the engine reports: matches with the numbers behind them, and their totals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from saeguard.rules.loading.units import format_duration
from saeguard.rules.model import Aggregation, Comparison, Correlation, Rule
from saeguard.rules.phases import Phase
from saeguard.rules.scope import RequestContext
from saeguard.rules.template import Value


@dataclass(frozen=True, slots=True)
class Reading:
    """One signal at the token that made its rule fire."""

    signal: str
    source: str
    """The feature, or the group: `l2(x, y)`."""
    features: tuple[str, ...]
    agg: Aggregation
    value: float
    comparison: Comparison
    threshold: float
    upper: float | None
    holds: bool
    position: int
    """For `max` the first token with the largest score; for the others the firing token."""


@dataclass(frozen=True, slots=True)
class Match:
    """A rule began to fire."""

    rule: Rule
    key: str
    position: int
    """The token that made it fire."""
    first_position: int
    """Where its evidence starts: the first token in a window of a signal that holds, or the first
    token that `for` counted, whichever is earlier."""
    phase: Phase
    readings: Mapping[str, Reading]
    limited: bool = False
    """The request had used up the rule's `limit` before: counted, not to be raised as an alert."""


@dataclass(frozen=True, slots=True)
class Event:
    """A match as a correlation remembers it."""

    rule: str
    key: str
    """Of the request."""
    context: RequestContext
    time_ns: int
    """By the clock that windows are measured with."""
    wall_ns: int = 0
    """By the clock on the wall, which may be set back and forth."""


@dataclass(frozen=True, slots=True)
class CorrelationMatch:
    """A correlation became true. Its request is that of the last event."""

    rule: Rule
    group: Mapping[str, str]
    count: int
    """Of events, of distinct values, or of rules that have matched."""
    events: tuple[Event, ...]
    """The newest of those that made it true, oldest first; at most 32."""


Outcome = Literal["alert", "limited", "suppressed", "opted_out", "building_block"]


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of a match."""

    match: Match | CorrelationMatch
    context: RequestContext
    time_ns: int
    outcome: Outcome
    exception: str | None = None
    """Name of the exception that suppressed it."""


@dataclass(frozen=True, slots=True)
class RuleCount:
    """How often one rule matched in one request: `matches = emitted + limited`."""

    rule: Rule
    matches: int
    emitted: int
    limited: int


def render_message(
    match: Match | CorrelationMatch, context: RequestContext, token_text: Callable[[int], str]
) -> str:
    """The rule's message with its placeholders filled in.

    Args:
        match: what matched.
        context: the request it fired in; what it lacks is shown as `-`.
        token_text: text of the token at a position; not asked for a correlation.
    """

    def value_of(path: tuple[str, ...]) -> Value:
        match path:
            case ("rule", name):
                return str(getattr(match.rule, name))
            case ("request", name):
                return str(getattr(context, name) or "-")
        if isinstance(match, CorrelationMatch):
            return _correlation_value(match, path)
        _, signal, name = path
        reading = match.readings[signal]
        if name == "token":
            return token_text(reading.position)
        value: Value = getattr(reading, name)
        return value

    return match.rule.message.render(value_of)


def _correlation_value(match: CorrelationMatch, path: tuple[str, ...]) -> Value:
    if path == ("count",):
        return match.count
    if path[0] == "group":
        return match.group[path[1]]
    assert isinstance(match.rule.detection, Correlation)
    return format_duration(match.rule.detection.timespan_s)
