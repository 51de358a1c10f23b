"""Conditions: names of signals, joined by `and`, `or`, `not`, parentheses and `2 of (a, b_*)`.

Thresholds sit in the signals, so that each is one line of a diff.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache, lru_cache, reduce
from itertools import accumulate
from typing import Any

import lark
import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]
Predicate = Callable[[Bools], Bools]

RESERVED = frozenset({"and", "or", "not", "of", "any", "all"})
MAX_LENGTH = 1000  # characters
MAX_DEPTH = 50  # of the expression
MAX_STARS = 4  # in one glob

# The words carry a priority and end at a word boundary: else `andd b` would be read as `and d b`.
# The basic lexer, since the contextual one would take `and` for a name wherever a name may stand.
_GRAMMAR = r"""
?or: and (_OR and)*
?and: unary (_AND unary)*
?unary: _NOT unary -> not
      | "(" or ")"
      | NAME -> name
      | _quantity _OF (pattern | "(" pattern ("," pattern)* ")") -> some
_quantity: ANY | ALL | NUMBER
?pattern: NAME | GLOB
_AND.2: /and\b/
_OR.2: /or\b/
_NOT.2: /not\b/
_OF.2: /of\b/
ANY.2: /any\b/
ALL.2: /all\b/
NUMBER: /[0-9]+\b/
GLOB.1: /[a-z0-9_]*\*[a-z0-9_*]*/
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


@dataclass(frozen=True, slots=True)
class AtLeast:
    """True where at least `count` of the operands are."""

    count: int
    operands: tuple[Condition, ...]


Condition = Name | Not | And | Or | AtLeast


class ConditionError(ValueError):
    """The text is not a condition; `offset` counts the characters before the mistake."""

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(message)
        self.offset = offset


def parse_condition(text: str, signals: Collection[str] = ()) -> Condition:
    """Parse `lie and (2 of (many, hint_*) or not avg)`.

    Args:
        text: the condition.
        signals: the names that globs may stand for. Other names are not looked up here.

    Raises:
        ConditionError: the text is not a condition, or a glob matches none of the signals.
    """
    if len(text) > MAX_LENGTH:
        raise ConditionError(f"longer than {MAX_LENGTH} characters", 0)
    condition = _build(_tree(text), signals)
    if max(depth(condition), _parentheses(text)) > MAX_DEPTH:
        raise ConditionError(f"nested deeper than {MAX_DEPTH} levels", 0)
    return condition


def _parentheses(text: str) -> int:
    """How deep they are nested, those that change nothing included."""
    return max(accumulate((each == "(") - (each == ")") for each in text), default=0)


@lru_cache(maxsize=4096)
def _tree(text: str) -> lark.Tree[lark.Token]:
    try:
        return _parser().parse(text)
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


def _build(tree: lark.Tree[lark.Token], signals: Collection[str]) -> Condition:
    if tree.data == "name":
        return _name(tree.children[0])
    if tree.data == "some":
        return _some(tree.children, signals)
    operands = tuple(
        _build(child, signals) for child in tree.children if isinstance(child, lark.Tree)
    )
    if tree.data == "not":
        return Not(operands[0])
    return And(operands) if tree.data == "and" else Or(operands)


def _name(token: Any) -> Name:
    return Name(str(token), token.start_pos)


def _some(tokens: list[Any], signals: Collection[str]) -> Condition:
    """`any of`, `all of` and `2 of`: each name counts once, whatever stands for it."""
    quantity, *patterns = tokens
    names: dict[str, Name] = {}
    for pattern in patterns:
        for name in _matching(pattern, signals):
            names.setdefault(name.name, name)
    operands = tuple(names.values())
    count = {"any": 1, "all": len(operands)}.get(quantity) or int(str(quantity)[:9])
    if not 1 <= count <= len(operands):
        raise ConditionError(
            f"{quantity} of {len(operands)} signal(s) is not possible", quantity.start_pos
        )
    if len(operands) == 1:
        return operands[0]
    if count == 1:
        return Or(operands)
    return And(operands) if count == len(operands) else AtLeast(count, operands)


def _matching(pattern: Any, signals: Collection[str]) -> list[Name]:
    if pattern.type == "NAME":
        return [_name(pattern)]
    if pattern.count("*") > MAX_STARS:
        raise ConditionError(f"more than {MAX_STARS} stars in {str(pattern)!r}", pattern.start_pos)
    names = [Name(s, pattern.start_pos) for s in signals if fnmatchcase(s, str(pattern))]
    if not names:
        raise ConditionError(f"no signal matches {str(pattern)!r}", pattern.start_pos)
    return names


def operands_of(condition: Condition) -> tuple[Condition, ...]:
    """The conditions directly inside a condition."""
    match condition:
        case Name():
            return ()
        case Not(operand):
            return (operand,)
    return condition.operands


def names_in(condition: Condition) -> Iterator[Name]:
    """Every mention of a signal, from left to right."""
    if isinstance(condition, Name):
        yield condition
    for operand in operands_of(condition):
        yield from names_in(operand)


def depth(condition: Condition) -> int:
    """Levels of nesting; a name has one."""
    return 1 + max(map(depth, operands_of(condition)), default=0)


def compile_condition(condition: Condition, rows: Mapping[str, int]) -> Predicate:
    """A function from `holds` [signals, ...] to the condition's truth [...].

    Args:
        condition: the condition.
        rows: which row of `holds` each of its signals has.
    """
    if isinstance(condition, Name):
        row = rows[condition.name]
        return lambda holds: holds[row]
    operands = [compile_condition(operand, rows) for operand in operands_of(condition)]
    match condition:
        case Not():
            return lambda holds: ~operands[0](holds)
        case And():
            return lambda holds: reduce(operator.and_, (each(holds) for each in operands))
        case Or():
            return lambda holds: reduce(operator.or_, (each(holds) for each in operands))
        case AtLeast(count):
            return lambda holds: _count_true(holds, operands) >= count


def _count_true(holds: Bools, operands: list[Predicate]) -> npt.NDArray[np.uint16]:
    total = operands[0](holds).astype(np.uint16)
    for operand in operands[1:]:
        total += operand(holds)
    return total
