"""Lints of signals and conditions that are the same on every token."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date
from math import fsum, hypot

from saeguard.rules.conditions import Condition, compile_condition, names_in
from saeguard.rules.lints.finding import Remark, about, about_signal
from saeguard.rules.lints.possible import outcomes, truth_table
from saeguard.rules.model import (
    Aggregate,
    Correlation,
    Feature,
    Rule,
    RuleSet,
    Signal,
    StepSequence,
)


def never_true(ruleset: RuleSet, today: date) -> Iterator[Remark]:
    """A signal or a condition that no scores can make true, such as `s and not s`, a count of 40
    within 32 tokens, or one aggregate that must be at least 5 and below 3. The rule cannot fire
    by it; mend the threshold, or the condition."""
    for rule in ruleset.rules:
        constant = list(_constant_signals(rule, ruleset.features))
        for signal, value in constant:
            if not value:
                yield about_signal(rule, signal, f"signal '{signal.name}' can never be true")
        if not constant:
            yield from _never_true_conditions(rule, ruleset.features)


def always_true(ruleset: RuleSet, today: date) -> Iterator[Remark]:
    """A signal or a condition that is true on every token whose scores are known, such as
    `s or not s`, or an SAE feature that must be at least 0 (it is never negative). It tells
    nothing; mend the threshold, or leave it out."""
    for rule in ruleset.rules:
        constant = list(_constant_signals(rule, ruleset.features))
        for signal, value in constant:
            if value:
                yield about_signal(
                    rule, signal, f"signal '{signal.name}' is true of every score there can be"
                )
        if not constant:
            yield from _always_true_conditions(rule, ruleset.features)


def above_maximum(ruleset: RuleSet, today: date) -> Iterator[Remark]:
    """A threshold that even the largest activation known of its feature (`max`) does not reach.
    Lower the threshold, or correct the feature's `max`."""
    for rule in ruleset.rules:
        for signal in _own_signals(rule):
            largest = _largest_known(signal.aggregate, ruleset.features)
            if largest is not None and (asks := _asks_for_more(signal, largest)):
                yield about_signal(
                    rule,
                    signal,
                    f"signal '{signal.name}' {asks} {largest:g}, "
                    f"the largest known of {signal.aggregate.source}",
                )


def _own_signals(rule: Rule) -> list[Signal]:
    """Those of its building blocks are looked at there."""
    return [signal for signal in rule.signals if "." not in signal.name]


def _constant_signals(rule: Rule, features: Mapping[str, Feature]) -> Iterator[tuple[Signal, bool]]:
    for signal in _own_signals(rule):
        values = outcomes([signal], features)
        if len(values) == 1:
            ((value,),) = values
            yield signal, value


def _never_true_conditions(rule: Rule, features: Mapping[str, Feature]) -> Iterator[Remark]:
    for name, condition in _conditions(rule):
        if _values(condition, rule, features, missing=True) == {False} and name != "unless":
            yield about(rule, f"{name} can never be true, whatever the scores")


def _always_true_conditions(rule: Rule, features: Mapping[str, Feature]) -> Iterator[Remark]:
    for name, condition in _conditions(rule):
        if _values(condition, rule, features, missing=False) == {True}:
            yield about(rule, f"{name} is true on every token, whatever the scores")


def _conditions(rule: Rule) -> Iterator[tuple[str, Condition]]:
    """The rule's conditions, and what to call them."""
    match rule.detection:
        case Correlation():
            return
        case StepSequence(steps, _, unless):
            for number, step in enumerate(steps, 1):
                yield f"step {number}", step.when
            if unless is not None:
                yield "unless", unless.when
        case condition:
            yield "the condition", condition


def _values(
    condition: Condition, rule: Rule, features: Mapping[str, Feature], missing: bool
) -> set[bool]:
    """What the condition can be; nothing if there are too many combinations to know."""
    mentions = [mention.name for mention in names_in(condition)]
    rows = {name: row for row, name in enumerate(dict.fromkeys(mentions))}
    signals = [signal for signal in rule.signals if signal.name in rows]
    if len(rows) == len(mentions) == len({signal.aggregate for signal in signals}):
        return {False, True}  # each signal counts once and is free: no need to try
    table = truth_table(sorted(signals, key=lambda signal: rows[signal.name]), features, missing)
    return set() if table is None else set(compile_condition(condition, rows)(table).tolist())


def _asks_for_more(signal: Signal, largest: float) -> str:
    """How the signal asks for more than the largest score known, or nothing if it does not."""
    aggregate, threshold = signal.aggregate, signal.threshold
    if aggregate.kind == "count":
        return "counts scores over" if aggregate.over >= largest else ""
    if aggregate.kind == "noisy_or" or signal.comparison in ("lt", "lte"):
        return ""
    if aggregate.kind == "sum":
        threshold /= aggregate.tokens
    beyond = threshold >= largest if signal.comparison == "gt" else threshold > largest
    return "asks for more than" if beyond else ""


def _largest_known(aggregate: Aggregate, features: Mapping[str, Feature]) -> float | None:
    """The largest score of the feature or the group that was ever seen, if that is known."""
    maxima = [features[name].max_activation for name in aggregate.features]
    known = [maximum for maximum in maxima if maximum is not None]
    if len(known) < len(maxima):
        return None
    match aggregate.combine:
        case "angle":
            return None
        case "sum":
            return fsum(known)
        case "l2":
            return hypot(*known)
    return max(known)
