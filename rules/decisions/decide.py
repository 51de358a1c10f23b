"""What becomes of a match: an alert, or the reason why it is none.

In this order: an exception of its rule *suppresses* it; where the client has opted out of the rule,
it is *opted out*; over the rule's limit it is *limited*; a rule with `emit: false` is a *building
block*; else it is an *alert*. A match feeds correlations unless it is suppressed or over its rule's
limit per request: opting out and other limits hold back alerts, not state. What a correlation finds
is decided in the same way, and may feed others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from datetime import UTC, date, datetime
from itertools import chain
from typing import Any

from saeguard.rules.decisions.bounded import MAX_GROUPS, Groups
from saeguard.rules.decisions.correlate import Correlator
from saeguard.rules.decisions.limits import Limiter
from saeguard.rules.matches import CorrelationMatch, Decision, Event, Match, Outcome
from saeguard.rules.model import Correlation, Exemption, Rule, RuleSet
from saeguard.rules.scope import RequestContext, matches_glob, shortened

EVERY_RULE = "*"
"""Stands for all rules that a client can opt out of."""


class Decider:
    """Decides on the matches of one rule set, in the order in which they come. Not thread-safe."""

    def __init__(self, ruleset: RuleSet, max_groups: int = MAX_GROUPS) -> None:
        """
        Args:
            ruleset: the rules whose matches will come.
            max_groups: how many groups or requests each rule's correlation or limit remembers.
        """
        self.exception_uses: Counter[tuple[str, str]] = Counter()
        """(rule, exception) -> how many matches it has suppressed; by their names."""
        self._now_ns = 0
        self._num_evicted_before = 0
        self._rules = {rule.id: rule for rule in ruleset.rules}
        self._limiters = {
            rule.id: Limiter(rule.limit, max_groups)
            for rule in ruleset.rules
            if not _is_counted_by_engine(rule)
        }
        self._correlators = {
            rule.id: Correlator(rule, max_groups)
            for rule in ruleset.rules
            if isinstance(rule.detection, Correlation)
        }
        self._fed_by: dict[str, list[Correlator]] = {}
        for rule in ruleset.rules:
            if isinstance(rule.detection, Correlation):
                for name in rule.detection.rules:
                    self._fed_by.setdefault(name, []).append(self._correlators[rule.id])

    @property
    def num_evicted(self) -> int:
        """Groups and requests that were forgotten too early, to keep memory bounded."""
        return self._num_evicted_before + sum(groups.num_evicted for groups in self._groups())

    def decide(
        self,
        match: Match,
        context: RequestContext,
        time_ns: int,
        opted_out: Collection[str] = (),
        clock_ns: int | None = None,
    ) -> list[Decision]:
        """Decide on a match of the engine.

        Args:
            match: of a rule of this rule set.
            context: of its request.
            time_ns: when it happened.
            opted_out: names of the rules that its client has opted out of, or `EVERY_RULE`.
            clock_ns: when it happened by a clock that nobody sets, for limits and correlations; by
                default `time_ns`. For them time never runs backwards: what comes late counts as
                happening with the newest that was seen.

        Returns:
            What becomes of it, followed by what becomes of the correlations that it completes.
        """
        self._now_ns = max(self._now_ns, time_ns if clock_ns is None else clock_ns)
        return list(self._decide(match, context, time_ns, opted_out))

    def finish(self, key: str) -> None:
        """Forget what limits remember of a request."""
        for rule_id, limiter in self._limiters.items():
            if self._rules[rule_id].limit.per == "request":
                limiter.alerts.drop(key)

    def carry_over(self, old: Decider) -> None:
        """Take over what another one remembers of rules that are the same here, and its totals.

        The other one must not be used any more.
        """
        self._now_ns = old._now_ns
        self.exception_uses = old.exception_uses
        for rule_id, rule in self._rules.items():
            if old._rules.get(rule_id) != rule:
                continue
            if rule_id in self._limiters:
                self._limiters[rule_id].alerts = old._limiters[rule_id].alerts
            if rule_id in self._correlators:
                self._correlators[rule_id].groups = old._correlators[rule_id].groups
        self._num_evicted_before = 0
        self._num_evicted_before = old.num_evicted - self.num_evicted

    def _decide(
        self,
        match: Match | CorrelationMatch,
        context: RequestContext,
        time_ns: int,
        opted_out: Collection[str],
    ) -> Iterator[Decision]:
        rule = match.rule
        if exception := exception_for(rule, context, time_ns):
            self.exception_uses[rule.name, exception.name] += 1
            yield Decision(match, context, time_ns, "suppressed", exception.name)
            return
        is_opted_out = rule.allows_opt_out and (rule.name in opted_out or EVERY_RULE in opted_out)
        is_per_request = rule.limit.per == "request"
        # What raises no alert must not use up what others are to raise.
        is_limited = (is_per_request or not is_opted_out) and self._is_limited(match)
        yield Decision(match, context, time_ns, _outcome(rule, is_opted_out, is_limited))
        if is_limited and is_per_request:
            return
        event = Event(rule.name, shortened(_key(match)), context, self._now_ns, time_ns)
        for correlator in self._fed_by.get(rule.name, ()):
            if found := correlator.take(event):
                yield from self._decide(found, context, time_ns, opted_out)

    def _is_limited(self, match: Match | CorrelationMatch) -> bool:
        limiter = self._limiters.get(match.rule.id)
        if limiter is None:
            return isinstance(match, Match) and match.limited
        return not limiter.admits(_limit_group(match), self._now_ns)

    def _groups(self) -> Iterator[Groups[Any]]:
        limits = (limiter.alerts for limiter in self._limiters.values())
        correlations = (correlator.groups for correlator in self._correlators.values())
        return chain(limits, correlations)


def expired_exceptions(ruleset: RuleSet, time_ns: int) -> list[tuple[Rule, Exemption]]:
    """Exceptions that no longer apply, with their rules."""
    today = _utc_day(time_ns)
    return [
        (rule, exception)
        for rule in ruleset.rules
        for exception in rule.exceptions
        if _has_expired(exception, today)
    ]


def exception_for(rule: Rule, context: RequestContext, time_ns: int) -> Exemption | None:
    """The first of the rule's exceptions that lets off this request."""
    for exception in rule.exceptions:
        if _fits(exception, context) and not _has_expired(exception, _utc_day(time_ns)):
            return exception
    return None


def _outcome(rule: Rule, is_opted_out: bool, is_limited: bool) -> Outcome:
    if is_opted_out:
        return "opted_out"
    if is_limited:
        return "limited"
    return "alert" if rule.emit else "building_block"


def _fits(exception: Exemption, context: RequestContext) -> bool:
    return (
        matches_glob(context.model, exception.models)
        and matches_glob(context.lora, exception.loras)
        and matches_glob(context.tenant, exception.tenants)
        and matches_glob(context.client, exception.clients)
    )


def _has_expired(exception: Exemption, day: date) -> bool:
    return exception.expires is not None and exception.expires < day


def _utc_day(time_ns: int) -> date:
    return datetime.fromtimestamp(time_ns // 1_000_000_000, UTC).date()


def _is_counted_by_engine(rule: Rule) -> bool:
    """The engine, which sees no correlations, marks what is over a limit of the whole request."""
    return rule.max_per_request is not None and not isinstance(rule.detection, Correlation)


def _key(match: Match | CorrelationMatch) -> str:
    return match.key if isinstance(match, Match) else match.events[-1].key


def _limit_group(match: Match | CorrelationMatch) -> object:
    """What the matches have in common that one limit holds for."""
    match match.rule.limit.per:
        case "request":
            return _key(match)
        case "group" if isinstance(match, CorrelationMatch):
            return tuple(match.group.values())
    return None
