"""Conditions of rules and of steps, decided only where they are possible.

From a condition follow *clauses*: of the tests in each, at least one must hold. They come from its
conjunctive normal form by leaving out whatever could be true anyway (`not`, tests without a bound),
so a token on which some clause has no possible test can be skipped. All clauses of all predicates
are evaluated together; their number of array operations grows with the longest clause, not with
the number of rules.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np

from saeguard.rules.conditions import (
    And,
    AtLeast,
    Bools,
    Condition,
    Name,
    Not,
    Or,
)
from saeguard.rules.engine.aggregates import Indices
from saeguard.rules.engine.blocks import nonzero, padded
from saeguard.rules.engine.truth_tables import TruthTables
from saeguard.rules.phases import Phase

_Clauses = frozenset[frozenset[int]]
_MAX_CLAUSES = 32


@dataclass(frozen=True, slots=True)
class Predicate:
    """A condition of a rule: its only one, or that of a step."""

    rule: int
    step: int
    """Of a sequence: the number of the step; -1 for `unless`, and 0 where there is no sequence."""
    condition: Condition
    phases: frozenset[Phase]
    rows: Mapping[str, int]
    """Signal -> its test."""


class Predicates:
    """Some predicates over some tests."""

    def __init__(
        self, predicates: Sequence[Predicate], bounded: Collection[int], exact: Collection[int]
    ) -> None:
        """
        Args:
            predicates: what to decide.
            bounded: tests that are not possible everywhere.
            exact: those of them that hold exactly where they are possible.
        """
        self._clauses = [
            sorted(map(sorted, necessary_clauses(each.condition, each.rows, bounded)))
            for each in predicates
        ]
        self._any = _Jagged([clause for each in self._clauses for clause in each])
        numbers = iter(self._any.place_of.tolist())
        self._all = _Jagged([[next(numbers) for _ in each] for each in self._clauses])
        self.are_possible_anywhere = not all(self._clauses)
        """Some may be true where no bounded test is possible."""
        self._truth = TruthTables([(each.condition, each.rows) for each in predicates])
        self._open_tests = padded(
            [[test for test in tests if test not in exact] for tests in self._truth.tests]
        )

    def possible(self, possible: Bools) -> tuple[Indices, Indices]:
        """Where each predicate may be true: pairs of predicate and column of [tests, ...].

        Those of a predicate are neighbours, and in order.
        """
        clauses = self._any.fold(np.logical_or, possible)
        places, columns = nonzero(self._all.fold(np.logical_and, clauses))
        return self._all.order[places], columns

    def open_tests(
        self, possible: Bools, predicates: Indices, columns: Indices
    ) -> tuple[Indices, Indices]:
        """Pairs of test and column to settle before these predicates can be decided there.

        The last row of `possible` belongs to no test and is False.
        """
        matter = np.zeros_like(possible)
        matter[self._open_tests[predicates], columns[:, None]] = True
        return nonzero(matter & possible)

    def decide(self, holds: Bools, predicates: Indices, columns: Indices) -> Bools:
        """Whether each of some pairs, ordered by predicate, is true.

        Args:
            holds: [tests, ...], right for all tests of the pairs.
        """
        return self._truth.look_up(holds, predicates, columns)


def necessary_clauses(
    condition: Condition, rows: Mapping[str, int], bounded: Collection[int]
) -> _Clauses:
    """The clauses of a condition over the tests that have a bound."""

    def of(operands: Iterable[Condition]) -> list[_Clauses]:
        return [necessary_clauses(each, rows, bounded) for each in operands]

    match condition:
        case Name(name) if rows[name] in bounded:
            return frozenset({frozenset({rows[name]})})
        case Not(Not(operand)):
            return necessary_clauses(operand, rows, bounded)
        case Not(And(operands)):
            return _any_of(of(map(Not, operands)))
        case Not(Or(operands)):
            return _all_of(of(map(Not, operands)))
        case And(operands):
            return _all_of(of(operands))
        case Or(operands):
            return _any_of(of(operands))
        case AtLeast(count, operands):
            return _at_least(count, of(operands))
    return frozenset()


def _all_of(parts: Sequence[_Clauses]) -> _Clauses:
    return frozenset[frozenset[int]]().union(*parts)


def _any_of(parts: Sequence[_Clauses]) -> _Clauses:
    """Distributed over the parts; where that would be long, over their shortest clauses."""
    if math.prod(map(len, parts)) > _MAX_CLAUSES:
        parts = [frozenset({min(clauses, key=len)}) for clauses in parts]
    return frozenset(frozenset[int]().union(*choice) for choice in product(*parts))


def _at_least(count: int, parts: Sequence[_Clauses]) -> _Clauses:
    """Of any so many that fewer than `count` are left, one is true."""
    size = len(parts) - count + 1
    if math.comb(len(parts), size) > _MAX_CLAUSES:
        return _any_of(parts)
    return _all_of([_any_of(some) for some in combinations(parts, size)])


class _Jagged:
    """Rows of different length, combined step by step: all first members, all second ones, ..."""

    def __init__(self, members: Sequence[Sequence[int]]) -> None:
        lengths = np.array([len(each) for each in members], np.int64)
        self.order = np.argsort(-lengths, kind="stable")
        """Of what `fold` returns: the longest first."""
        self.place_of = np.argsort(self.order)
        """Where each is in it."""
        by_length = [members[i] for i in self.order]
        self._steps = [
            np.array([each[i] for each in by_length if len(each) > i], np.int64)
            for i in range(int(lengths.max(initial=0)))
        ]

    def fold(self, operation: np.ufunc, rows: Bools) -> Bools:
        """[members, ...] -> [len, ...], in order of length; what has no members is true."""
        result = np.ones((len(self.order), *rows.shape[1:]), np.bool_)
        for i, members in enumerate(self._steps):
            part = result[: len(members)]
            if i == 0:
                part[:] = rows[members]
            else:
                operation(part, rows[members], out=part)
        return result
