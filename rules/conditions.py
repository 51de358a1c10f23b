"""Conditions: names of signals joined by `and`, `or`, `not` and parentheses, and nothing else.

All numbers sit in the signals, so that a threshold is one line of a diff.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, reduce
from typing import Any

import lark
import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]
Predicate = Callable[[Bools], Bools]

RESERVED = frozenset({"and", "or", "not", "of", "any", "all"})
MAX_LENGTH = 1000  # characters; bounds the depth of the expression

# The words carry a priority and end at a word boundary: else `andd b` would be read as `and d b`.
# The basic lexer, since the contextual one would take `and` for a name wherever a name may stand.
_GRAMMAR = r"""
?or: and (_OR and)*
?and: unary (_AND unary)*
?unary: _NOT unary -> not
      | "(" or ")"
      | NAME -> name
_AND.2: /and\b/
_OR.2: /or\b/
_NOT.2: /not\b/
NAME: /[a-z_][a-z0-9_]*/
%import common.WS
%ignore WS
"""


@dataclass(frozen=True, slots=True)
class Name:
    """True where the signal holds."""

    name: str
    offset: int = field(default=0, compare=False)
    """Characters before it in the text of the condition."""


@dataclass(frozen=True, slots=True)
class Not:
    operand: Condition


@dataclass(frozen=True, slots=True)
class And:
    operands: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Or:
    operands: tuple[Condition, ...]


Condition = Name | Not | And | Or


class ConditionError(ValueError):
    """The text is not a condition; `offset` counts the characters before the mistake."""

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(message)
        self.offset = offset


def parse_condition(text: str) -> Condition:
    """Parse `lie and (many or not avg)`.

    Raises:
        ConditionError: the text is not a condition.
    """
    if len(text) > MAX_LENGTH:
        raise ConditionError(f"longer than {MAX_LENGTH} characters", 0)
    try:
        return _build(_parser().parse(text))
    except lark.UnexpectedCharacters as error:
        offset: int = error.pos_in_stream or 0
        raise ConditionError(f"unexpected {text[offset:].split()[0]!r}", offset) from error
    except lark.UnexpectedToken as error:
        if error.token.type == "$END":
            raise ConditionError("it ends too early", len(text)) from error
        raise ConditionError(
            f"unexpected {str(error.token)!r}", error.pos_in_stream or 0
        ) from error


@cache
def _parser() -> lark.Lark:
    return lark.Lark(_GRAMMAR, parser="lalr", lexer="basic", start="or")


def _build(tree: lark.Tree[lark.Token]) -> Condition:
    if tree.data == "name":
        token: Any = tree.children[0]
        return Name(str(token), token.start_pos)
    operands = tuple(_build(child) for child in tree.children if isinstance(child, lark.Tree))
    if tree.data == "not":
        return Not(operands[0])
    return And(operands) if tree.data == "and" else Or(operands)


def names_in(condition: Condition) -> Iterator[Name]:
    """Every mention of a signal, from left to right."""
    match condition:
        case Name():
            yield condition
        case Not(operand):
            yield from names_in(operand)
        case And(operands) | Or(operands):
            for operand in operands:
                yield from names_in(operand)


def compile_condition(condition: Condition, rows: Mapping[str, int]) -> Predicate:
    """A function from `holds` [signals, ...] to the condition's truth [...].

    Args:
        condition: the condition.
        rows: which row of `holds` each of its signals has.
    """
    match condition:
        case Name(name):
            row = rows[name]
            return lambda holds: holds[row]
        case Not(operand):
            inner = compile_condition(operand, rows)
            return lambda holds: ~inner(holds)
        case And(operands):
            return reduce(_both(operator.and_), [compile_condition(x, rows) for x in operands])
        case Or(operands):
            return reduce(_both(operator.or_), [compile_condition(x, rows) for x in operands])


def _both(
    operation: Callable[[Bools, Bools], Bools],
) -> Callable[[Predicate, Predicate], Predicate]:
    return lambda left, right: lambda holds: operation(left(holds), right(holds))
