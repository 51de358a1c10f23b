"""Rules with one number changed a little.

Of every signal the thresholds, `over`, `zero` and `one` go up and down by 5 % and by 25 %, those of
a count by 1 and by a quarter; window, half-life, `rolling` and `k` by 1. So do the `for`,
`keep_firing_for` and `within` that a rule has, and of a correlation the threshold; its timespan
goes by 5 % and by 25 %.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

from saeguard.rules.errors import Location
from saeguard.rules.loading.units import format_duration
from saeguard.rules.model import Aggregate, Correlation, Rule, RuleSet, Signal, StepSequence
from saeguard.rules.testing.derive import own_signals

Changed = TypeVar("Changed")
Holder = TypeVar("Holder", Aggregate, Rule, StepSequence, Correlation)

STEPS = (0.05, 0.25)
RIGHT_ANGLE = 90.0


@dataclass(frozen=True, slots=True, order=True)
class Mutant:
    """A changed number. Rule sets that share a file have equal ones."""

    location: Location
    rule: str
    path: str
    """`signals.peak.gte`"""
    before: str
    after: str
    changed: tuple[Rule, ...] = field(compare=False, repr=False)
    """The rules that have the number: several where it is a building block's."""


@dataclass(frozen=True, slots=True)
class _Change(Generic[Changed]):
    path: str
    before: str
    after: str
    value: Changed


def mutants(ruleset: RuleSet) -> Iterator[Mutant]:
    """Every mutant of every rule."""
    for rule in ruleset.rules:
        for signal in own_signals(rule):
            users = [each for each in ruleset.rules if _uses(each, rule, signal)]
            for change in _signal_changes(signal):
                yield Mutant(
                    location=signal.location or rule.location,
                    rule=rule.name,
                    path=f"signals.{signal.name}.{change.path}",
                    before=change.before,
                    after=change.after,
                    changed=tuple(_exchanged(user, rule, signal, change.value) for user in users),
                )
        for changed in _rule_changes(rule):
            path = changed.path
            where = rule.places.get(path, rule.location)
            yield Mutant(where, rule.name, path, changed.before, changed.after, (changed.value,))


def _is_same(found: Signal, user: Rule, owner: Rule, signal: Signal) -> bool:
    """A building block's signal is `block.signal` in the rules that name the block."""
    if user.name == owner.name:
        return found.name == signal.name
    return found.name == f"{owner.name}.{signal.name}"


def _uses(user: Rule, owner: Rule, signal: Signal) -> bool:
    return any(_is_same(found, user, owner, signal) for found in user.signals)


def _exchanged(user: Rule, owner: Rule, old: Signal, new: Signal) -> Rule:
    signals = (
        replace(new, name=found.name) if _is_same(found, user, owner, old) else found
        for found in user.signals
    )
    return replace(user, signals=tuple(signals))


def _signal_changes(signal: Signal) -> Iterator[_Change[Signal]]:
    yield from _threshold_changes(signal)
    for change in _aggregate_changes(signal.aggregate):
        changed = replace(signal, aggregate=change.value)
        yield _Change(change.path, change.before, change.after, changed)


def _threshold_changes(signal: Signal) -> Iterator[_Change[Signal]]:
    low, high, aggregate = signal.threshold, signal.upper, signal.aggregate
    if high is None:
        before = f"{signal.written} = {_text(low)}" if signal.written else _text(low)
        for bound in _shifted(low, aggregate):
            changed = replace(signal, threshold=bound)
            yield _Change(signal.comparison, before, _text(bound), changed)
        return
    may_wrap = aggregate.combine == "angle"
    for bound in _shifted(low, aggregate):
        if bound < high or may_wrap:
            changed = replace(signal, threshold=bound)
            yield _Change("between[0]", _text(low), _text(bound), changed)
    for bound in _shifted(high, aggregate):
        if low < bound or may_wrap:
            changed = replace(signal, upper=bound)
            yield _Change("between[1]", _text(high), _text(bound), changed)


def _aggregate_changes(aggregate: Aggregate) -> Iterator[_Change[Aggregate]]:
    """Those that still make sense: `k` and `rolling` fit into the window, `zero` is below `one`."""
    kind = aggregate.kind
    changes: list[_Change[Aggregate]] = []
    if kind == "count":
        changes += _scaled(aggregate, "over")
    elif kind == "noisy_or":
        changes += _scaled(aggregate, "zero")
        changes += _scaled(aggregate, "one")
    elif kind == "rolling_mean_max":
        changes += _stepped(aggregate, "rolling", "rolling")
    elif kind in ("topk_mean", "min_evidence"):
        changes += _stepped(aggregate, "k", "k")
    if kind != "value":
        changes += _stepped(aggregate, "tokens", "half_life" if kind == "ema" else "window")
    for change in changes:
        new = change.value
        if max(1, new.k, new.rolling) <= new.tokens and new.zero < new.one:
            yield change


def _rule_changes(rule: Rule) -> Iterator[_Change[Rule]]:
    if rule.for_tokens > 1:  # it is written
        yield from _stepped(rule, "for_tokens", "for")
    if rule.keep_firing_for:
        yield from _stepped(rule, "keep_firing_for", "keep_firing_for", least=0)
    for change in _detection_changes(rule):
        changed = replace(rule, detection=change.value)
        yield _Change(change.path, change.before, change.after, changed)


def _detection_changes(rule: Rule) -> Iterator[_Change[StepSequence] | _Change[Correlation]]:
    detection = rule.detection
    if isinstance(detection, StepSequence):
        yield from _stepped(detection, "within", "sequence.within")
    if isinstance(detection, Correlation):
        if detection.type in ("event_count", "value_count"):
            yield from _stepped(detection, "threshold", f"correlate.{detection.comparison}")
        before = format_duration(detection.timespan_s)
        for span_s in _around(detection.timespan_s):
            changed = replace(detection, timespan_s=span_s)
            yield _Change("correlate.timespan", before, format_duration(span_s), changed)


def _stepped(holder: Holder, name: str, path: str, least: int = 1) -> Iterator[_Change[Holder]]:
    before: int = getattr(holder, name)
    for after in (before - 1, before + 1):
        if after >= least:
            yield _Change(path, str(before), str(after), _with(holder, name, after))


def _scaled(aggregate: Aggregate, name: str) -> Iterator[_Change[Aggregate]]:
    before: float = getattr(aggregate, name)
    for after in _around(before):
        yield _Change(name, _text(before), _text(after), _with(aggregate, name, after))


def _with(holder: Holder, name: str, value: float) -> Holder:
    changes: dict[str, Any] = {name: value}
    return replace(holder, **changes)


def _shifted(bound: float, aggregate: Aggregate) -> list[float]:
    if aggregate.kind == "count":  # between whole numbers nothing changes
        near, far = 1, max(2, round(STEPS[1] * abs(bound)))
        return [bound - far, bound - near, bound + near, bound + far]
    if aggregate.combine == "angle":
        moved = [bound + sign * step * RIGHT_ANGLE for step in STEPS for sign in (-1, 1)]
        return sorted(angle for angle in moved if -180 <= angle <= 180)
    return _around(bound)


def _around(value: float) -> list[float]:
    size = abs(value) or 1.0
    return sorted(value + sign * step * size for step in STEPS for sign in (-1, 1))


def _text(value: float) -> str:
    return f"{value:.6g}"
