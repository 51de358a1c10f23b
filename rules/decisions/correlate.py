"""Matches of rules, counted across requests and in time.

A correlation asks something of the matches within the last `timespan`, both ends included, of one
group. Between two matches the answer can only turn false, as old ones leave the timespan. So it
*becomes* true exactly where it is true with a new match and would, at that moment, be false
without it. Nothing else has to be remembered, and of the matches only what can still matter:

* of the counts and of `temporal` the newest match of each distinct value, as many as are asked for;
* of `temporal_ordered`, for each step the chain up to it that began last.

Matches at the same time are in the order in which they come.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

from saeguard.rules.decisions.bounded import MAX_GROUPS, Groups
from saeguard.rules.matches import CorrelationMatch, Event
from saeguard.rules.model import Correlation, Rule

ABSENT = "-"
"""The tenant of a request that has none; likewise its model, LoRA and client."""

MAX_EVENTS = 500_000
"""Events that one correlation keeps: where each group needs many, there may be fewer groups."""

_MAX_SHOWN = 32


class Correlator:
    """Runs one `correlate` rule."""

    def __init__(self, rule: Rule, max_groups: int = MAX_GROUPS) -> None:
        """
        Raises:
            ValueError: the rule has no `correlate`.
        """
        if not isinstance(rule.detection, Correlation):
            raise ValueError(f"{rule.name} is not a correlation")
        self.rule = rule
        self._correlation = rule.detection
        self._span_ns = round(rule.detection.timespan_s * 1e9)
        self._num_needed = num_needed(rule.detection)
        self.groups: Groups[_Distinct | _Chain] = Groups(
            self._new_group, self._span_ns, min(max_groups, max(1, MAX_EVENTS // self._num_needed))
        )

    def take(self, event: Event) -> CorrelationMatch | None:
        """Count a match of one of the rules. Times must not run backwards.

        Returns:
            What became true with it, if something did.
        """
        group = tuple(_value(event, key) for key in self._correlation.group_by)
        state = self.groups.use(group, event.time_ns)
        since_ns = event.time_ns - self._span_ns
        was_true = state.is_true(since_ns)
        state.add(event, self._distinct_value(event))
        if was_true or not state.is_true(since_ns):
            return None
        return CorrelationMatch(
            rule=self.rule,
            group=dict(zip(self._correlation.group_by, group, strict=True)),
            count=self._num_needed,  # an event adds one at most, so it is never passed
            events=state.events()[-_MAX_SHOWN:],
        )

    def _new_group(self) -> _Distinct | _Chain:
        if self._correlation.type == "temporal_ordered":
            return _Chain(self._correlation.rules)
        return _Distinct(self._num_needed)

    def _distinct_value(self, event: Event) -> Hashable:
        """Events of equal value count once."""
        match self._correlation.type:
            case "event_count":
                return object()
            case "value_count":
                return _value(event, self._correlation.field or "request")
        return event.rule


def num_needed(correlation: Correlation) -> int:
    """How many events, distinct values or rules make it true."""
    if correlation.type in ("temporal", "temporal_ordered"):
        return len(correlation.rules)
    return correlation.threshold + (correlation.comparison == "gt")


class _Distinct:
    """Whether there are so many distinct values."""

    def __init__(self, num_needed: int) -> None:
        self._num_needed = num_needed
        self._newest: OrderedDict[Hashable, Event] = OrderedDict()  # by value, oldest first

    def is_true(self, since_ns: int) -> bool:
        while self._newest and next(iter(self._newest.values())).time_ns < since_ns:
            self._newest.popitem(last=False)
        return len(self._newest) >= self._num_needed

    def add(self, event: Event, value: Hashable) -> None:
        self._newest[value] = event
        self._newest.move_to_end(value)
        if len(self._newest) > self._num_needed:
            self._newest.popitem(last=False)

    def events(self) -> tuple[Event, ...]:
        return tuple(self._newest.values())


class _Chain:
    """Whether the rules have matched in their order."""

    def __init__(self, rules: tuple[str, ...]) -> None:
        self._rules = rules
        self._chains: list[tuple[Event, ...]] = [()] * len(rules)  # of the rules up to each

    def is_true(self, since_ns: int) -> bool:
        whole = self._chains[-1]
        return bool(whole) and whole[0].time_ns >= since_ns

    def add(self, event: Event, _: Hashable) -> None:
        step = self._rules.index(event.rule)
        before = self._chains[step - 1] if step else ()
        if step == 0 or before:
            self._chains[step] = (*before, event)

    def events(self) -> tuple[Event, ...]:
        return self._chains[-1]


def _value(event: Event, key: str) -> str:
    match key:
        case "rule":
            return event.rule
        case "request":
            return event.key
    return getattr(event.context, key) or ABSENT
