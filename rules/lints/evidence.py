"""Lints of rules that fire on little evidence, or that dilute what they look for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date

from saeguard.rules.conditions import Condition, Name, Not, operands_of
from saeguard.rules.lints.finding import Remark, about
from saeguard.rules.model import Correlation, Rule, RuleSet, Signal, StepSequence

LONG_WINDOW = 64


def single_token(ruleset: RuleSet, today: date) -> Iterator[Remark]:
    """A rule that one score of one feature on one token is enough for. Single activations are
    noisy: ask for several tokens (`count`, `min_evidence`, `ema`, `for` with `value`), or for
    a second feature. Building blocks and sequences are not meant."""
    for rule in ruleset.rules:
        evidence = _evidence(rule)
        sources = {ruleset.features[name].source for name in rule.features}
        is_lone = bool(evidence) and len(sources) == 1
        if is_lone and all(_one_token_is_enough(signal, rule) for signal in evidence):
            yield about(rule, f"one high score of '{rule.features[0]}' is enough to fire")


def diluted_mean(ruleset: RuleSet, today: date) -> Iterator[Remark]:
    """A rule whose only evidence is a mean over 64 tokens or more. What is strong for a few
    tokens is averaged away: use `topk_mean`, `rolling_mean_max` or `count`, or a shorter
    window. Building blocks and sequences are not meant."""
    for rule in ruleset.rules:
        evidence = _evidence(rule)
        if evidence and all(
            signal.aggregate.kind == "mean" and signal.aggregate.tokens >= LONG_WINDOW
            for signal in evidence
        ):
            tokens = max(signal.aggregate.tokens for signal in evidence)
            yield about(rule, f"its only evidence is a mean, and {tokens} tokens dilute a burst")


def speaking_for(condition: Condition, signals: Sequence[Signal]) -> list[Signal]:
    """The signals that help to make the condition true by being high."""
    asked = dict(_asked(condition))
    upward = {"gt": True, "gte": True, "between": True, "lt": False, "lte": False}
    return [signal for signal in signals if asked.get(signal.name) is upward[signal.comparison]]


def _evidence(rule: Rule) -> list[Signal]:
    if not rule.emit or isinstance(rule.detection, StepSequence | Correlation):
        return []
    return speaking_for(rule.detection, rule.signals)


def _asked(condition: Condition, wanted: bool = True) -> Iterator[tuple[str, bool]]:
    """Every signal and whether the condition asks that it is true or that it is false."""
    if isinstance(condition, Name):
        yield condition.name, wanted
    for operand in operands_of(condition):
        yield from _asked(operand, wanted != isinstance(condition, Not))


def _one_token_is_enough(signal: Signal, rule: Rule) -> bool:
    """Whether one high score makes the signal true for as long as the rule's `for` asks."""
    aggregate = signal.aggregate
    if rule.for_tokens > aggregate.tokens:
        return False
    match aggregate.kind:
        case "value" | "max":
            return True
        case "count":
            return signal.threshold + (signal.comparison == "gt") <= 1
        case "topk_mean" | "min_evidence":
            return aggregate.k == 1
    return False
