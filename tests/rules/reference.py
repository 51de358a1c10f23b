"""The semantics of rules, token by token and as plainly as can be: the engine must agree."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass, field

import numpy as np

from saeguard.rules import Match, Phase, Reading, RequestContext, Rule, RuleSet
from saeguard.rules.model import Aggregate

_COMPARE = {"gt": operator.gt, "gte": operator.ge, "lt": operator.lt, "lte": operator.le}


@dataclass
class Token:
    position: int
    phase: Phase
    scores: dict[str, float]


def aggregate(agg: Aggregate, run: list[Token]) -> float:
    """The aggregate at the last token of a phase run that ends there."""
    scores = [token.scores[agg.features[0]] for token in run]
    if agg.kind == "ema":
        seen = [x for x in scores if not math.isnan(x)]
        weight, average = 1 - 0.5 ** (1 / agg.tokens), 0.0
        for x in seen:
            average += weight * (x - average)
        return average if seen else math.nan
    newest_first = [x for x in reversed(scores[-agg.tokens :]) if not math.isnan(x)]
    if not newest_first:
        return math.nan
    if agg.kind == "count":
        return float(sum(x > agg.over for x in newest_first))
    if agg.kind == "mean":
        return sum(newest_first[1:], newest_first[0]) / len(newest_first)
    return max(newest_first)


def readings(rule: Rule, run: list[Token]) -> dict[str, Reading]:
    found = {}
    for signal in rule.signals:
        agg = signal.aggregate
        value = aggregate(agg, run)
        position = run[-1].position
        if agg.kind == "max" and not math.isnan(value):
            window = run[-agg.tokens :]
            position = next(t.position for t in window if t.scores[agg.features[0]] == value)
        found[signal.name] = Reading(
            signal=signal.name,
            source=agg.source,
            features=agg.features,
            agg=agg.kind,
            value=value,
            comparison=signal.comparison,
            threshold=signal.threshold,
            upper=signal.upper,
            holds=_COMPARE[signal.comparison](value, signal.threshold),
            position=position,
        )
    return found


@dataclass
class _RuleState:
    rule: Rule
    condition: str  # Python reads the condition language as its own
    for_run: list[int] = field(default_factory=list)  # positions
    matches: int = 0

    def step(self, key: str, run: list[Token]) -> Match | None:
        token = run[-1]
        if len(run) == 1:
            self.for_run = []
        if token.phase not in self.rule.scope.phases:
            return None
        if all(math.isnan(token.scores[name]) for name in self.rule.features):
            return None
        found = readings(self.rule, run)
        if not eval(self.condition, {}, {name: each.holds for name, each in found.items()}):
            self.for_run = []
            return None
        self.for_run.append(token.position)
        if len(self.for_run) != self.rule.for_tokens:
            return None
        self.matches += 1
        return Match(
            rule=self.rule,
            key=key,
            position=token.position,
            first_position=min([self.for_run[0], *self._window_starts(found, run)]),
            phase=token.phase,
            readings=found,
            limited=self.matches > (self.rule.max_per_request or self.matches),
        )

    def _window_starts(self, found: dict[str, Reading], run: list[Token]) -> list[int]:
        return [
            run[-1 if signal.aggregate.kind == "ema" else -signal.aggregate.tokens :][0].position
            for signal in self.rule.signals
            if found[signal.name].holds
        ]


def evaluate(
    ruleset: RuleSet,
    conditions: dict[str, str],
    key: str,
    context: RequestContext,
    scores: np.ndarray,
    positions: np.ndarray,
    phases: np.ndarray,
    columns: list[str],
) -> list[Match]:
    """All matches of one whole request, in order."""
    states = [
        _RuleState(rule, conditions[rule.name])
        for rule in ruleset.rules
        if rule.scope.admits(context)
    ]
    matches: list[Match] = []
    run: list[Token] = []
    for row in range(len(positions)):
        token = Token(
            int(positions[row]),
            Phase(int(phases[row])),
            dict(zip(columns, scores[row].tolist(), strict=True)),
        )
        run = [*run, token] if run and run[-1].phase == token.phase else [token]
        matches += [match for state in states if (match := state.step(key, run)) is not None]
    return matches
