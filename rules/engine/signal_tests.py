"""The signals of all rules: where each can possibly hold, where it does, and what it read.

Signals of different rules that ask the same are one *test*; tests on one aggregate share its state.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from saeguard.rules.conditions import Bools
from saeguard.rules.engine.aggregates import (
    Indices,
    Numbers,
    Parameters,
    Windows,
    aggregate_windows,
    span,
)
from saeguard.rules.engine.averages import Averages
from saeguard.rules.engine.blocks import Block
from saeguard.rules.engine.bounds import bound_of
from saeguard.rules.engine.columns import Columns
from saeguard.rules.engine.evidence import Evidence
from saeguard.rules.engine.history import History
from saeguard.rules.engine.thresholds import Test, as_test
from saeguard.rules.matches import Reading
from saeguard.rules.model import Aggregate, Signal

_MAX_CELLS = 2**20  # of windows at a time
_SIZES = (1, 64, 256, 2048)
_AVERAGE = 0


@dataclass(frozen=True, slots=True)
class View:
    """A block as the signals see it."""

    block: Block
    averages: Numbers
    """[averages, rows]"""
    holds: Bools
    """[tests, rows]: the truth of `exact` tests, what is possible of the others until settled."""
    has_holes: bool
    """Some score was not observed."""


class Signals:
    """The tests of some signals over the given columns, with their state in every slot."""

    def __init__(self, signals: Iterable[Signal], columns: Sequence[str]) -> None:
        tests = sorted(dict.fromkeys(map(as_test, signals)), key=lambda t: t.aggregate.kind)
        self.columns = Columns((test.aggregate for test in tests), columns)
        bounds = {test: bound_of(test) for test in tests}
        averaged = [test for test in tests if test.aggregate.kind == "ema"]
        bounded = [test for test in tests if bounds[test]]
        free = [test for test in tests if test not in averaged and not bounds[test]]
        self._tests = (*bounded, *averaged, *free)
        self._row_of = {test: row for row, test in enumerate(self._tests)}
        self._averaged = slice(len(bounded), len(bounded) + len(averaged))
        self._free = slice(self._averaged.stop, None)
        self.bounded = frozenset(range(len(bounded) + len(averaged)))
        """Tests that are not possible everywhere."""
        self.exact = frozenset(
            row for row in self.bounded if (b := bounds[self._tests[row]]) is None or b.is_exact
        )
        """Tests that hold exactly where they are possible."""
        self._tabulate()
        self._evidence = Evidence(
            [(test, bound) for test in bounded if (bound := bounds[test])],
            self._column_of[: len(bounded)],
            len(self.columns),
        )
        self._history = History(int(self._spans.max(initial=1)), len(self.columns))
        self._averages = self._share_averages(averaged)

    def _tabulate(self) -> None:
        """What the tests are, as arrays."""
        aggregates = [test.aggregate for test in self._tests]
        self._kinds = sorted({each.kind for each in aggregates})
        self._kind_of = np.array([self._kinds.index(each.kind) for each in aggregates], np.int64)
        self._column_of = np.array([self.columns.of(each) for each in aggregates], np.int64)
        self._spans = np.array([span(each) for each in aggregates], np.int64)
        self._size_of = np.array([_size(each) for each in aggregates], np.int64)
        self._low = np.array([test.low for test in self._tests])
        self._high = np.array([test.high for test in self._tests])
        self._any_wraps = any(test.wraps for test in self._tests)
        self._parameters = Parameters(aggregates)

    def _share_averages(self, tests: Sequence[Test]) -> Averages:
        aggregates = list(dict.fromkeys(test.aggregate for test in tests))
        self._average_of = np.zeros(len(self._tests), np.int64)
        self._average_of[self._averaged] = [aggregates.index(test.aggregate) for test in tests]
        return Averages([self.columns.of(a) for a in aggregates], [a.tokens for a in aggregates])

    @property
    def num_tests(self) -> int:
        return len(self._tests)

    def row_of(self, signal: Signal) -> int:
        """Its test."""
        return self._row_of[as_test(signal)]

    def grow(self, num_slots: int) -> None:
        for part in (self._evidence, self._history, self._averages):
            part.grow(num_slots)

    def begin_runs(self, slots: Indices) -> None:
        """New phase runs begin in these slots."""
        self._evidence.reset(slots)
        self._averages.reset(slots)

    def look(self, block: Block) -> View:
        """Take in a block, whose scores are as the columns were given."""
        block = block.with_scores(self.columns.extend(block.scores))
        has_holes = bool(np.isnan(block.scores.min(initial=0)))
        averages = self._averages.observe(block, has_holes)
        holds = np.zeros((self.num_tests, block.num_rows), np.bool_)
        holds[self._free] = True
        self._evidence.mark_possible(block, has_holes, holds)
        if len(averages):
            values = averages[self._average_of[self._averaged]]
            holds[self._averaged] = self._hold(self._averaged, values.T).T
        if block.is_one_each:
            self._history.remember(block)
        return View(block, averages, holds, has_holes)

    def remember(self, view: View) -> None:
        """Keep the end of a block for the windows of the next, when it has been dealt with.

        `look` has done so for blocks of one token each, whose own windows are read from there.
        """
        if not view.block.is_one_each:
            self._history.remember(view.block)

    def settle(self, view: View, tests: Indices, rows: Indices) -> None:
        """Put the truth in the place of what is possible."""
        if tests.size:
            view.holds[tests, rows] = self._hold(tests, self.values(view, tests, rows))

    def _hold(self, tests: Indices | slice, values: Numbers) -> Bools:
        """Whether tests hold, of which these are the values, or the values on many rows."""
        low, high = self._low[tests], self._high[tests]
        above, below = values >= low, values <= high
        if not self._any_wraps:
            return above & below
        return np.where(low <= high, above & below, above | below)

    def values(self, view: View, tests: Indices, rows: Indices) -> Numbers:
        """The aggregates of some tests, each at a row."""
        values = np.empty(len(tests))
        sizes = self._size_of[tests]
        for size in _distinct(sizes):
            chosen = (sizes == size).nonzero()[0]
            if size == _AVERAGE:
                values[chosen] = view.averages[self._average_of[tests[chosen]], rows[chosen]]
                continue
            at_once = max(1, _MAX_CELLS // size)
            for begin in range(0, len(chosen), at_once):
                part = chosen[begin : begin + at_once]
                values[part] = self._windowed(view.block, tests[part], rows[part])
        return values

    def _windowed(self, block: Block, tests: Indices, rows: Indices) -> Numbers:
        scores, lengths = self._history.windows(
            block, rows, self._column_of[tests], self._spans[tests]
        )
        windows = Windows.of(scores, lengths, self._parameters, tests)
        kinds = self._kind_of[tests]
        bounds = [0, *((kinds[1:] != kinds[:-1]).nonzero()[0] + 1).tolist(), len(kinds)]
        values = np.empty(len(tests))
        for begin, end in pairwise(bounds):  # tests are ordered by kind
            of = slice(begin, end)
            part = windows.take(of, int(self._spans[tests[of]].max()))
            values[of] = aggregate_windows(self._kinds[kinds[begin]], part)
        return values

    def readings(
        self, view: View, asked: Sequence[tuple[Sequence[Signal], int]]
    ) -> Iterator[tuple[dict[str, Reading], list[int]]]:
        """What the signals of rules read, each rule's on a row.

        Yields:
            The readings, and for those that hold the position of the first token they looked at.
        """
        tests = np.array([self.row_of(signal) for signals, _ in asked for signal in signals])
        rows = np.array([row for signals, row in asked for _ in signals])
        values = self.values(view, tests, rows)
        holds = self._hold(tests, values)
        told = zip(tests.tolist(), values.tolist(), holds.tolist(), strict=True)
        for signals, row in asked:
            readings: dict[str, Reading] = {}
            begins = []
            for signal, (test, value, truth) in zip(signals, told, strict=False):
                position = self._read_at(view.block, test, row, value)
                readings[signal.name] = _reading(signal, value, truth, position)
                if truth:
                    begins.append(self._looks_at_from(view.block, test, row))
            yield readings, begins

    def _read_at(self, block: Block, test: int, row: int, value: float) -> int:
        back = 0
        if self._tests[test].aggregate.kind == "max" and value == value:
            at, column = np.array([row]), self._column_of[[test]]
            window, _ = self._history.windows(block, at, column, self._spans[[test]])
            back = int((window[0] == value).nonzero()[0][-1])
        return self._history.position(block, row, back)

    def _looks_at_from(self, block: Block, test: int, row: int) -> int:
        """The position of the first token of the run that a test looks at on a row."""
        age = int(block.tokens[row] - block.run_begins[block.lanes[row]])
        return self._history.position(block, row, min(age, int(self._spans[test]) - 1))


def _reading(signal: Signal, value: float, holds: bool, position: int) -> Reading:
    return Reading(
        signal=signal.name,
        source=signal.aggregate.source,
        features=signal.aggregate.features,
        agg=signal.aggregate.kind,
        value=value,
        comparison=signal.comparison,
        threshold=signal.threshold,
        upper=signal.upper,
        holds=holds,
        position=position,
    )


def _size(aggregate: Aggregate) -> int:
    """Windows of about the same length are cut together."""
    if aggregate.kind == "ema":
        return _AVERAGE
    return next(size for size in _SIZES if span(aggregate) <= size)


def _distinct(values: Indices) -> list[int]:
    distinct: list[int] = np.bincount(values).nonzero()[0].tolist()
    return distinct
