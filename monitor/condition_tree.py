"""A rule's condition as an alert keeps it: a tree of lines, each true or not when it fired."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from saeguard.monitor.alerts import ConditionLine
from saeguard.rules import Rule
from saeguard.rules.conditions import And, AtLeast, Condition, Name, Not, Or
from saeguard.rules.model import Correlation, StepSequence

Holds = Mapping[str, bool]


def condition_tree(rule: Rule, holds: Holds) -> list[ConditionLine]:
    """The lines, parents before their children; none for a rule across requests.

    Args:
        holds: for each signal whether it held: of a sequence, on the token of its own step.
    """
    match rule.detection:
        case StepSequence() as sequence:
            return list(_sequence(sequence, holds))
        case Correlation():
            return []
        case condition:
            return list(_lines(condition, holds, 0))


def _sequence(sequence: StepSequence, holds: Holds) -> Iterator[ConditionLine]:
    yield ConditionLine(f"one after the other, within {sequence.within} tokens", True, 0)
    for step in sequence.steps:
        phases = ", ".join(sorted(map(str, step.phases)))
        yield ConditionLine(f"in {phases}", _is_true(step.when, holds), 1)
        yield from _lines(step.when, holds, 2)


def _lines(condition: Condition, holds: Holds, depth: int) -> Iterator[ConditionLine]:
    yield ConditionLine(_text(condition), _is_true(condition, holds), depth)
    for operand in _operands(condition):
        yield from _lines(operand, holds, depth + 1)


def _text(condition: Condition) -> str:
    match condition:
        case Name(name):
            return name
        case Not():
            return "not"
        case And():
            return "all of"
        case Or():
            return "any of"
        case AtLeast(count, operands):
            return f"at least {count} of {len(operands)}"


def _operands(condition: Condition) -> tuple[Condition, ...]:
    match condition:
        case Name():
            return ()
        case Not(operand):
            return (operand,)
        case And(operands) | Or(operands) | AtLeast(_, operands):
            return operands


def _is_true(condition: Condition, holds: Holds) -> bool:
    match condition:
        case Name(name):
            return holds.get(name, False)
        case Not(operand):
            return not _is_true(operand, holds)
        case And(operands):
            return all(_is_true(each, holds) for each in operands)
        case Or(operands):
            return any(_is_true(each, holds) for each in operands)
        case AtLeast(count, operands):
            return sum(_is_true(each, holds) for each in operands) >= count
