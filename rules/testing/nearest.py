"""Says why an expected alert did not come, as far as that can be told from the rule's parts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import inf, isinf

import numpy as np

from saeguard.rules.matches import Match, Reading
from saeguard.rules.model import Comparison, Correlation, Rule, RuleSet, Signal, StepSequence
from saeguard.rules.recordings.offline import RecordedRequest, play
from saeguard.rules.testing.cases import Case
from saeguard.rules.testing.derive import signal_phases, wanted_truths, watching, with_rules
from saeguard.rules.testing.judge import Failure, Happening

SYMBOLS: dict[Comparison, str] = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}

_GRID = 64  # thresholds that are tried at once
_MAX_ROUNDS = 12


def explain(
    ruleset: RuleSet, case: Case, failure: Failure, happenings: Iterable[Happening]
) -> Iterator[str]:
    """What may have kept an expected alert away; nothing for other failures."""
    expectation = failure.expectation
    if expectation is None or not failure.lacks_alert:
        return
    rule = next(rule for rule in ruleset.rules if rule.name == expectation.rule)
    where = [request for i, request in enumerate(case.requests) if expectation.request in (None, i)]
    matched = [
        each
        for each in happenings
        if each.rule == rule.name and expectation.request in (None, each.request)
    ]
    if matched:
        for each in matched:
            if each.outcome == "suppressed":
                yield f"suppressed by {each.exception} {each.where(case)}"
            elif each.outcome == "limited":
                yield f"over the rule's limit {each.where(case)}"
    elif isinstance(rule.detection, Correlation):
        yield from _explain_correlation(rule.detection, happenings)
    elif not any(rule.scope.admits(request.context) for request in where):
        yield f"the rule's scope does not admit {_who(where)}"
    else:
        yield from _explain_signals(ruleset, rule, where)


def _explain_correlation(
    correlation: Correlation, happenings: Iterable[Happening]
) -> Iterator[str]:
    for name in dict.fromkeys(correlation.rules):
        matched = [each for each in happenings if each.rule == name]
        requests = sorted({each.request for each in matched})
        listed = f" (in request {', '.join(map(str, requests))})" if requests else ""
        yield f"matches of {name}: {len(matched)}{listed}"


def _who(requests: Sequence[RecordedRequest]) -> str:
    contexts = [request.context for request in requests]
    return "; ".join(
        dict.fromkeys(
            f"model {each.model or '-'}, tenant {each.tenant or '-'}, lora {each.lora or '-'}"
            for each in contexts
        )
    )


def _explain_signals(
    ruleset: RuleSet, rule: Rule, requests: Sequence[RecordedRequest]
) -> Iterator[str]:
    phases = {int(code) for request in requests for code in np.unique(request.phases)}
    if not phases & rule.phases:
        yield f"no token is in its phases: {', '.join(map(str, sorted(rule.phases)))}"
        return
    watch = _Watch(ruleset, rule, requests)
    wanted = wanted_truths(rule)
    blamed = False
    for signal in rule.signals:
        truths = wanted.get(signal.name, set())
        if True in truths and not watch.was(signal, True):
            blamed = True
            yield f"signal {signal.name} was never true{watch.nearest(signal)}"
        elif truths == {False} and not watch.was(signal, False):
            blamed = True
            yield f"signal {signal.name} was never false, as it should be"
    if not blamed:
        yield _blame_together(watch)


def _blame_together(watch: _Watch) -> str:
    rule = watch.rule
    if isinstance(rule.detection, StepSequence):
        return "each signal was as it should be, but not in this order or not soon enough"
    longest = watch.longest()
    if longest == 0:
        return "each signal was as it should be, but never together"
    return f"it held for {longest} tokens in a row at most, it needs {rule.for_tokens}"


@dataclass(frozen=True, slots=True)
class _Watch:
    """Asks the engine about the signals of one rule."""

    ruleset: RuleSet
    rule: Rule
    requests: Sequence[RecordedRequest]

    def was(self, signal: Signal, truth: bool) -> bool:
        return bool(self._matches([watching(self.rule, signal, truth, "watch")]))

    def longest(self) -> int:
        """For how many tokens in a row the rule's condition held, up to what it needs."""
        rules = [
            replace(self.rule, id=str(length), name=str(length), for_tokens=length)
            for length in range(1, self.rule.for_tokens)
        ]
        return max((int(match.rule.name) for match in self._matches(rules)), default=0)

    def nearest(self, signal: Signal) -> str:
        """How near a signal that was never true came to its threshold."""
        if signal.comparison == "between":
            return f": it needs {signal.threshold:g} to {signal.upper:g}"
        best = self._best(signal)
        needs = f"it needs {SYMBOLS[signal.comparison]} {signal.threshold:g}"
        if signal.written:
            needs += f", {signal.written}"
        if best is None:
            return f": nothing was observed in {_phases(self.rule, signal)}; {needs}"
        rises = signal.comparison in ("gt", "gte")
        extreme = "largest" if rises else "smallest"
        return f": its {extreme} value was {best.value:.6g}, {needs}"

    def _best(self, signal: Signal) -> Reading | None:
        """The reading with the value nearest to the threshold, which all of them miss.

        Each round asks at which of many thresholds between the nearest value so far and the real
        one the signal would have held; a match tells the value exactly.
        """
        rises = signal.comparison in ("gt", "gte")
        beyond: Comparison = "gt" if rises else "lt"
        tried = [-inf if rises else inf]
        best: Reading | None = None
        for _ in range(_MAX_ROUNDS):
            found = self._matches(
                [
                    watching(
                        self.rule,
                        replace(signal, comparison=beyond, threshold=float(threshold)),
                        True,
                        f"watch {i}",
                    )
                    for i, threshold in enumerate(tried)
                ]
            )
            if not found:
                break
            readings = [match.readings[signal.name] for match in found]
            best = (max if rises else min)(readings, key=lambda reading: reading.value)
            if isinf(best.value):
                break
            tried = list(np.linspace(best.value, signal.threshold, _GRID, endpoint=False))
        return best

    def _matches(self, rules: Sequence[Rule]) -> list[Match]:
        decisions = play(with_rules(self.ruleset, tuple(rules)), self.requests)
        return [each.match for each in decisions if isinstance(each.match, Match)]


def _phases(rule: Rule, signal: Signal) -> str:
    return ", ".join(map(str, sorted(signal_phases(rule, signal))))
