"""The semantics of rules, token by token and as plainly as can be: the engine must agree."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from saeguard.rules import Match, Phase, Reading, RequestContext, Rule, RuleSet, Signal
from saeguard.rules.conditions import And, AtLeast, Condition, Name, Not, Or
from saeguard.rules.model import Aggregate, Step, StepSequence


@dataclass
class Token:
    position: int
    phase: Phase
    scores: dict[str, float]


def score(agg: Aggregate, token: Token) -> float:
    """That of the feature, or what the group makes of its members; a float32."""
    x = [token.scores[name] for name in agg.features]
    if any(map(math.isnan, x)):
        return math.nan
    match agg.combine:
        case "max":
            return max(x)
        case "sum":
            return float(np.float32(sum(x)))
        case "l2":
            return float(np.float32(math.sqrt(sum(each**2 for each in x))))
        case "angle":
            angle = math.nan if x == [0, 0] else math.degrees(math.atan2(x[1], x[0]))
            return float(np.float32(angle))
    (only,) = x
    return only


def observed(scores: list[float]) -> list[float]:
    return [x for x in scores if not math.isnan(x)]


def aggregate(agg: Aggregate, run: list[Token]) -> float:
    """The aggregate at the last token of a phase run that ends there."""
    scores = [score(agg, token) for token in run]
    if agg.kind == "ema":
        weight, average = 1 - 0.5 ** (1 / agg.tokens), 0.0
        for x in observed(scores):
            average += weight * (x - average)
        return average if observed(scores) else math.nan
    if agg.kind == "rolling_mean_max":
        ends = range(max(agg.rolling, len(run) - agg.tokens + 1), len(run) + 1)
        spans = [observed(scores[end - agg.rolling : end]) for end in ends]
        return max((sum(span) / len(span) for span in spans if span), default=math.nan)
    x = observed(scores[-agg.tokens :])
    if not x:
        return math.nan
    match agg.kind:
        case "count":
            return float(sum(each > agg.over for each in x))
        case "mean":
            return sum(x) / len(x)
        case "sum":
            return sum(x)
        case "topk_mean":
            return sum(sorted(x)[-agg.k :]) / agg.k if len(x) >= agg.k else math.nan
        case "min_evidence":
            return sorted(x)[-agg.k] if len(x) >= agg.k else math.nan
        case "noisy_or":
            parts = [(each - agg.zero) / (agg.one - agg.zero) for each in x]
            return 1 - math.prod(1 - min(max(p, 0.0), 1.0) for p in parts)
    return max(x)  # `max`, and `value`: of one token


def compare(signal: Signal, value: float) -> bool:
    match signal.comparison:
        case "gt":
            return value > signal.threshold
        case "gte":
            return value >= signal.threshold
        case "lt":
            return value < signal.threshold
        case "lte":
            return value <= signal.threshold
    low, high = signal.threshold, signal.upper
    assert high is not None
    return low <= value <= high if low <= high else value >= low or value <= high


def span(agg: Aggregate, run: list[Token]) -> list[Token]:
    """The tokens it looks at; an average never ends, so of it only the last counts."""
    length = 1 if agg.kind == "ema" else agg.tokens
    return run[-(length + agg.rolling - 1) :]


def read(signal: Signal, run: list[Token]) -> Reading:
    agg = signal.aggregate
    value = aggregate(agg, run)
    position = run[-1].position
    if agg.kind == "max" and not math.isnan(value):
        position = next(t.position for t in span(agg, run) if score(agg, t) == value)
    return Reading(
        signal=signal.name,
        source=agg.source,
        features=agg.features,
        agg=agg.kind,
        value=value,
        comparison=signal.comparison,
        threshold=signal.threshold,
        upper=signal.upper,
        holds=compare(signal, value),
        position=position,
    )


def true(condition: Condition, holds: dict[str, bool]) -> bool:
    match condition:
        case Name(name):
            return holds[name]
        case Not(operand):
            return not true(operand, holds)
        case And(operands):
            return all(true(each, holds) for each in operands)
        case Or(operands):
            return any(true(each, holds) for each in operands)
        case AtLeast(count, operands):
            return sum(true(each, holds) for each in operands) >= count


@dataclass
class _Seen:
    """A token that the rule did not skip, with what was true on it."""

    position: int
    condition: bool = False
    steps: list[bool] = field(default_factory=list)
    unless: bool = False


class _Play:
    """One rule over one request."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.of_run: list[_Seen] = []
        self.of_request: list[_Seen] = []
        self.first_allowed = 0  # of `of_request`: a first step before it has been used up
        self.is_firing = False
        self.num_matches = 0

    def take(self, key: str, run: list[Token]) -> Match | None:
        token = run[-1]
        if len(run) == 1:
            self.of_run, self.is_firing = [], False
        if all(math.isnan(token.scores[name]) for name in self.rule.features):
            return None
        found = {signal.name: read(signal, run) for signal in self.rule.signals}
        holds = {name: reading.holds for name, reading in found.items()}
        if isinstance(self.rule.detection, StepSequence):
            first = self._sequence(self.rule.detection, token, holds)
        else:
            first = self._condition(self.rule.detection, token, holds)
        if first is None:
            return None
        self.num_matches += 1
        return Match(
            rule=self.rule,
            key=key,
            position=token.position,
            first_position=min([first, *self._window_begins(found, run)]),
            phase=token.phase,
            readings=found,
            limited=self.num_matches > (self.rule.max_per_request or self.num_matches),
        )

    def _condition(self, condition: Condition, token: Token, holds: dict[str, bool]) -> int | None:
        if token.phase not in self.rule.scope.phases:
            return None
        self.of_run.append(_Seen(token.position, condition=true(condition, holds)))
        recent = [seen.condition for seen in self.of_run[-(self.rule.keep_firing_for + 1) :]]
        if self.is_firing and any(recent):
            return None
        needed = self.of_run[-self.rule.for_tokens :]
        self.is_firing = len(needed) == self.rule.for_tokens and all(t.condition for t in needed)
        if not self.is_firing:
            return None
        row_of_true = needed
        for length in range(1, len(self.of_run) + 1):
            if not self.of_run[-length].condition:
                break
            row_of_true = self.of_run[-length:]
        return row_of_true[0].position

    def _sequence(self, sequence: StepSequence, token: Token, holds: dict[str, bool]) -> int | None:
        def on(step: Step | None) -> bool:
            return step is not None and token.phase in step.phases and true(step.when, holds)

        steps = [on(step) for step in sequence.steps]
        self.of_request.append(_Seen(token.position, steps=steps, unless=on(sequence.unless)))
        seen = self.of_request
        now = len(seen) - 1
        for first in range(now, self.first_allowed - 1, -1):
            if (
                seen[first].steps[0]
                and token.position - seen[first].position <= sequence.within
                and not any(seen[i].unless for i in range(first + 1, now + 1))
                and self._follow(first, 1, now)
            ):
                self.first_allowed = now
                return seen[first].position
        return None

    def _follow(self, index: int, step: int, now: int) -> bool:
        """Whether the steps from this one on come true after a token, the last of them now."""
        seen = self.of_request
        if step == len(seen[now].steps) - 1:
            return index < now and seen[now].steps[step]
        return any(
            seen[i].steps[step] and self._follow(i, step + 1, now) for i in range(index + 1, now)
        )

    def _window_begins(self, found: dict[str, Reading], run: list[Token]) -> list[int]:
        return [
            span(signal.aggregate, run)[0].position
            for signal in self.rule.signals
            if found[signal.name].holds
        ]


def evaluate(
    ruleset: RuleSet,
    key: str,
    context: RequestContext,
    scores: np.ndarray,
    positions: np.ndarray,
    phases: np.ndarray,
    columns: list[str],
) -> list[Match]:
    """All matches of one whole request, in order."""
    plays = [_Play(rule) for rule in ruleset.rules if rule.scope.admits(context)]
    matches: list[Match] = []
    run: list[Token] = []
    for row in range(len(positions)):
        token = Token(
            int(positions[row]),
            Phase(int(phases[row])),
            dict(zip(columns, scores[row].tolist(), strict=True)),
        )
        run = [*run, token] if run and run[-1].phase == token.phase else [token]
        matches += [match for play in plays if (match := play.take(key, run)) is not None]
    return matches
