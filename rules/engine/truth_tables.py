"""Conditions as tables: one look-up decides many of them at once, whatever they say.

A condition over n tests has 2^n cases. Its table is indexed by the number whose bit i is the truth
of its test i. A condition over more tests than fit is computed by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from saeguard.rules.conditions import Bools, Condition, Predicate, compile_condition, names_in
from saeguard.rules.engine.aggregates import Indices

_MAX_TESTS = 10


class TruthTables:
    """Some conditions, each with the tests that its names stand for."""

    def __init__(self, conditions: Sequence[tuple[Condition, Mapping[str, int]]]) -> None:
        self.tests: list[list[int]] = []
        """Of each condition, each once."""
        self._large: dict[int, tuple[Predicate, Indices]] = {}
        tables: list[Bools] = []
        for number, (condition, test_of) in enumerate(conditions):
            tests = list(dict.fromkeys(test_of[name.name] for name in names_in(condition)))
            rows = {name: tests.index(test) for name, test in test_of.items() if test in tests}
            compiled = compile_condition(condition, rows)
            self.tests.append(tests)
            if len(tests) > _MAX_TESTS:
                self._large[number] = compiled, np.array(tests)
                tables.append(np.zeros(1, np.bool_))
            else:
                cases = np.arange(2 ** len(tests))
                tables.append(compiled(cases >> np.arange(len(tests))[:, None] & 1 == 1))
        self._tables = np.concatenate(tables) if tables else np.zeros(0, np.bool_)
        self._begins = np.cumsum([0, *map(len, tables)])[:-1]
        small = [[] if number in self._large else t for number, t in enumerate(self.tests)]
        shape = len(small), max(map(len, small), default=0)
        self._test_of_bit, self._bits = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        for number, tests in enumerate(small):
            self._test_of_bit[number, : len(tests)] = tests
            self._bits[number, : len(tests)] = 1 << np.arange(len(tests))

    def look_up(self, holds: Bools, conditions: Indices, rows: Indices) -> Bools:
        """Whether each of some pairs of condition and row of `holds` [tests, rows] is true."""
        truth = holds[self._test_of_bit[conditions], rows[:, None]]
        found: Bools = self._tables[
            self._begins[conditions] + (truth * self._bits[conditions]).sum(axis=1)
        ]
        for number, (condition, tests) in self._large.items():
            here = (conditions == number).nonzero()[0]
            found[here] = condition(holds[tests[:, None], rows[here]])
        return found
