"""Rules with one number changed a little.

Of every signal the thresholds, `over`, `zero` and `one` go up and down by 5 % and by 25 %, those of
a count by 1 and by a quarter; window, half-life, `rolling` and `k` by 1. So do the `for`,
`keep_firing_for` and `within` that a rule has, and of a correlation the threshold; its timespan
goes by 5 % and by 25 %.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from saeguard.rules.errors import Location
from saeguard.rules.model import Aggregate, Correlation, Rule, RuleSet, Signal, StepSequence
from saeguard.rules.testing.derive import own_signals
from saeguard.rules.units import format_duration

Changed = TypeVar("Changed")

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
            where, path = rule.location, changed.path
            yield Mutant(where, rule.name, path, changed.before, changed.after, (changed.value,))


def _is_same(found: Signal, user: Rule, owner: Rule, signal: Signal) -> bool:
    """A building block's signal is `block.signal` in the rules that name the block."""
    if user.name == owner.name:
        return found.name == signal.name
    return f".{found.name}".endswith(f".{owner.name}.{signal.name}")


def _uses(user: Rule, owner: Rule, signal: Signal) -> bool:
    return any(_is_same(found, user, owner, signal) for found in user.signals)


def _exchanged(user: Rule, owner: Rule, old: Signal, new: Signal) -> Rule:
    signals = (
        replace(new, name=found.name) if _is_same(found, user, owner, old) else found
        for found in user.signals
    )
    return replace(user, signals=tuple(signals))


def _signal_changes(signal: Signal) -> Iterator[_Change[Signal]]:
    aggregate = signal.aggregate
    written = signal.written and f"{signal.written} = "
    is_between = signal.upper is not None
    for bound in _shifted(signal.threshold, aggregate):
        path = "between[0]" if is_between else signal.comparison
        before, changed = written + _text(signal.threshold), replace(signal, threshold=bound)
        yield _Change(path, before, _text(bound), changed)
    if signal.upper is not None:
        for bound in _shifted(signal.upper, aggregate):
            changed = replace(signal, upper=bound)
            yield _Change("between[1]", _text(signal.upper), _text(bound), changed)
    for change in _aggregate_changes(aggregate):
        changed = replace(signal, aggregate=change.value)
        yield _Change(change.path, change.before, change.after, changed)


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
        changes += _stepped(aggregate, "rolling")
    elif kind in ("topk_mean", "min_evidence"):
        changes += _stepped(aggregate, "k")
    if kind != "value":
        changes += _stepped(aggregate, "tokens", "half_life" if kind == "ema" else "window")
    for change in changes:
        new = change.value
        if max(1, new.k, new.rolling) <= new.tokens and new.zero < new.one:
            yield change


def _scaled(aggregate: Aggregate, name: str) -> Iterator[_Change[Aggregate]]:
    before: float = getattr(aggregate, name)
    for after in _around(before, STEPS):
        yield _Change(name, _text(before), _text(after), replace(aggregate, **{name: after}))


def _stepped(aggregate: Aggregate, name: str, path: str = "") -> Iterator[_Change[Aggregate]]:
    before: int = getattr(aggregate, name)
    for after in (before - 1, before + 1):
        if after >= 1:
            changed = replace(aggregate, **{name: after})
            yield _Change(path or name, str(before), str(after), changed)


def _rule_changes(rule: Rule) -> Iterator[_Change[Rule]]:
    for path, name in (("for", "for_tokens"), ("keep_firing_for", "keep_firing_for")):
        before: int = getattr(rule, name)
        default = 1 if name == "for_tokens" else 0
        for after in (before - 1, before + 1) if before > default else ():
            yield _Change(path, str(before), str(after), replace(rule, **{name: after}))
    match rule.detection:
        case StepSequence(within=within):
            for after in (within - 1, within + 1):
                changed = replace(rule, detection=replace(rule.detection, within=after))
                yield _Change("sequence.within", str(within), str(after), changed)
        case Correlation():
            yield from _correlation_changes(rule, rule.detection)


def _correlation_changes(rule: Rule, correlation: Correlation) -> Iterator[_Change[Rule]]:
    if correlation.type in ("event_count", "value_count"):
        before, path = correlation.threshold, f"correlate.{correlation.comparison}"
        for after in (before - 1, before + 1):
            if after >= 1:
                changed = replace(rule, detection=replace(correlation, threshold=after))
                yield _Change(path, str(before), str(after), changed)
    for span_s in _around(correlation.timespan_s, STEPS):
        changed = replace(rule, detection=replace(correlation, timespan_s=span_s))
        before_text = format_duration(correlation.timespan_s)
        yield _Change("correlate.timespan", before_text, format_duration(span_s), changed)


def _shifted(bound: float, aggregate: Aggregate) -> list[float]:
    if aggregate.kind == "count":  # between whole numbers nothing changes
        near, far = 1, max(2, round(STEPS[1] * abs(bound)))
        return [bound - far, bound - near, bound + near, bound + far]
    if aggregate.combine == "angle":
        moved = [bound + sign * step * RIGHT_ANGLE for step in STEPS for sign in (-1, 1)]
        return sorted(angle for angle in moved if -180 <= angle <= 180)
    return _around(bound, STEPS)


def _around(value: float, steps: tuple[float, ...]) -> list[float]:
    size = abs(value) or 1.0
    return sorted(value + sign * step * size for step in steps for sign in (-1, 1))


def _text(value: float) -> str:
    return f"{value:.6g}"
