"""Conditions of rules and of steps, decided only where they are possible.

From a condition follow *clauses*: of the tests in each, at least one must hold. They come from its
conjunctive normal form by leaving out whatever could be true anyway (`not`, tests without a bound),
so a token on which some clause has no possible test can be skipped. All clauses of all predicates
are evaluated together; their number of array operations grows with the longest clause, not with
the number of rules.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np

from saeguard.rules.aggregates import Indices
from saeguard.rules.conditions import (
    And,
    AtLeast,
    Bools,
    Condition,
    Name,
    Not,
    Or,
    compile_condition,
    names_in,
)
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
        self._conditions = []
        self._tests = []
        clauses, is_exact = [], []
        for predicate in predicates:
            names = list(dict.fromkeys(name.name for name in names_in(predicate.condition)))
            rows = {name: row for row, name in enumerate(names)}
            self._conditions.append(compile_condition(predicate.condition, rows))
            self._tests.append(np.array([predicate.rows[name] for name in names]))
            necessary = necessary_clauses(predicate.condition, predicate.rows, bounded)
            clauses.append(sorted(map(sorted, necessary.clauses)))
            is_exact.append(
                necessary.are_sufficient and {predicate.rows[n] for n in names} <= set(exact)
            )
        self.is_exact = np.array(is_exact, np.bool_)
        self.inexact_tests = [
            np.array([t for t in tests if t not in exact and not done], np.int64)
            for tests, done in zip(self._tests, is_exact, strict=True)
        ]
        self._in_phase = np.zeros((len(Phase), len(predicates)), np.bool_)
        for number, predicate in enumerate(predicates):
            self._in_phase[list(predicate.phases), number] = True
        self._any = _Jagged([clause for each in clauses for clause in each])
        numbers = iter(range(sum(map(len, clauses))))
        self._all = _Jagged([[next(numbers) for _ in each] for each in clauses])

    def possible(self, possible: Bools, lanes: Indices, phases: Indices) -> tuple[Indices, Indices]:
        """Where each predicate may be true: pairs of predicate and row, in order.

        Args:
            possible: [tests, rows]
            lanes: [rows], the lane of each.
            phases: [lanes], the phase of each.
        """
        clauses = self._any.fold(np.logical_or, possible)
        predicates, rows = np.nonzero(self._all.fold(np.logical_and, clauses))
        here = self._in_phase[phases[lanes[rows]], predicates]
        return predicates[here], rows[here]

    def decide(self, holds: Bools, predicates: Indices, rows: Indices) -> Bools:
        """Whether each of some pairs, ordered by predicate, is true.

        Args:
            holds: [tests, rows], right for all tests of the pairs.
        """
        truth = self.is_exact[predicates]
        for number, here in runs_of(predicates):
            if not self.is_exact[number]:
                tests = self._tests[number]
                truth[here] = self._conditions[number](holds[tests[:, None], rows[here]])
        return truth


@dataclass(frozen=True, slots=True)
class Necessary:
    """Clauses that a condition implies."""

    clauses: _Clauses
    are_sufficient: bool = True
    """They imply the condition, too."""


_NOTHING = Necessary(frozenset(), are_sufficient=False)


def necessary_clauses(
    condition: Condition, rows: Mapping[str, int], bounded: Collection[int]
) -> Necessary:
    """The clauses of a condition over the tests that have a bound."""

    def of(operands: Iterable[Condition]) -> list[Necessary]:
        return [necessary_clauses(each, rows, bounded) for each in operands]

    match condition:
        case Name(name) if rows[name] in bounded:
            return Necessary(frozenset({frozenset({rows[name]})}))
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
    return _NOTHING


def _all_of(parts: Sequence[Necessary]) -> Necessary:
    clauses: _Clauses = frozenset()
    return Necessary(
        clauses.union(*(part.clauses for part in parts)),
        all(part.are_sufficient for part in parts),
    )


def _any_of(parts: Sequence[Necessary]) -> Necessary:
    """Distributed over the parts; where that would be long, over their shortest clauses."""
    lists = [sorted(part.clauses, key=len) for part in parts]
    if math.prod(map(len, lists)) > _MAX_CLAUSES:
        shortest = frozenset[int]().union(*(clauses[0] for clauses in lists))
        return Necessary(frozenset({shortest}), are_sufficient=False)
    return Necessary(
        frozenset(frozenset[int]().union(*choice) for choice in product(*lists)),
        all(part.are_sufficient for part in parts),
    )


def _at_least(count: int, parts: Sequence[Necessary]) -> Necessary:
    """Of any so many that fewer than `count` are left, one is true."""
    size = len(parts) - count + 1
    if math.comb(len(parts), size) > _MAX_CLAUSES:
        return Necessary(_any_of(parts).clauses, are_sufficient=False)
    return _all_of([_any_of(some) for some in combinations(parts, size)])


class _Jagged:
    """Rows of different length, combined step by step: all first members, all second ones, ..."""

    def __init__(self, members: Sequence[Sequence[int]]) -> None:
        lengths = np.array([len(each) for each in members], np.int64)
        self._order = np.argsort(-lengths, kind="stable")
        by_length = [members[i] for i in self._order]
        self._steps = [
            np.array([each[i] for each in by_length if len(each) > i], np.int64)
            for i in range(int(lengths.max(initial=0)))
        ]

    def fold(self, operation: np.ufunc, rows: Bools) -> Bools:
        """[members, ...] -> [len, ...]; what has no members is true."""
        result = np.ones((len(self._order), *rows.shape[1:]), np.bool_)
        for i, members in enumerate(self._steps):
            part = result[: len(members)]
            part[:] = rows[members] if i == 0 else operation(part, rows[members])
        folded = np.empty_like(result)
        folded[self._order] = result
        return folded


def runs_of(values: Indices) -> Iterator[tuple[int, slice]]:
    """The stretches of equal values in an ordered array."""
    bounds = np.flatnonzero(np.diff(values, prepend=-1, append=-1)).tolist()
    for begin, end in zip(bounds, bounds[1:], strict=False):
        yield int(values[begin]), slice(begin, end)
