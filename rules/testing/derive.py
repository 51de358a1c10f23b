"""Rule sets made from others, to be played like them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from saeguard.rules.conditions import Condition, Name, Not, names_in, operands_of
from saeguard.rules.model import Correlation, Limit, Rule, RuleSet, Signal, StepSequence
from saeguard.rules.phases import Phase


def own_signals(rule: Rule) -> Iterator[Signal]:
    """Without those of the building blocks it names."""
    return (signal for signal in rule.signals if "." not in signal.name)


def signal_phases(rule: Rule, signal: Signal) -> frozenset[Phase]:
    """Where the rule asks whether the signal is true."""
    if not isinstance(rule.detection, StepSequence):
        return rule.scope.phases
    unless = [rule.detection.unless] if rule.detection.unless else []
    return frozenset[Phase]().union(
        *(
            step.phases
            for step in (*rule.detection.steps, *unless)
            if signal.name in {name.name for name in names_in(step.when)}
        )
    )


def wanted_truths(rule: Rule) -> dict[str, set[bool]]:
    """For each signal whether the rule wants it true, or false, or both at different places.

    What a sequence has under `unless` is left out.
    """
    conditions: list[Condition]
    match rule.detection:
        case StepSequence(steps):
            conditions = [step.when for step in steps]
        case Correlation():
            conditions = []
        case condition:
            conditions = [condition]
    wanted: dict[str, set[bool]] = {}

    def visit(condition: Condition, truth: bool) -> None:
        inner = operands_of(condition)
        for operand in inner:
            visit(operand, truth != isinstance(condition, Not))
        if not inner:
            for name in names_in(condition):
                wanted.setdefault(name.name, set()).add(truth)

    for condition in conditions:
        visit(condition, True)
    return wanted


def watching(rule: Rule, signal: Signal, truth: bool, name: str) -> Rule:
    """A rule that matches where a signal is true, or where it is false."""
    condition = Name(signal.name)
    return replace(
        rule,
        id=name,
        name=name,
        signals=(signal,),
        detection=condition if truth else Not(condition),
        scope=replace(rule.scope, phases=signal_phases(rule, signal)),
        for_tokens=1,
        keep_firing_for=0,
        limit=Limit(),
        exceptions=(),
        emit=True,
    )


def with_rules(ruleset: RuleSet, rules: tuple[Rule, ...]) -> RuleSet:
    """The same features with other rules."""
    return replace(ruleset, rules=rules)


def dependents(ruleset: RuleSet, names: frozenset[str]) -> frozenset[str]:
    """Names of rules, and those of the correlations that they feed, directly or not."""
    while True:
        fed = {
            rule.name
            for rule in ruleset.rules
            if isinstance(rule.detection, Correlation) and names & set(rule.detection.rules)
        }
        if fed <= names:
            return names
        names |= fed
