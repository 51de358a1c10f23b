"""The signals of all rules: where each can possibly hold, where it does, and what it read.

Signals of different rules that ask the same are one *test*; tests on one aggregate share its state.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from saeguard.rules.conditions import Bools
from saeguard.rules.engine import kernels
from saeguard.rules.engine.aggregates import Indices, Numbers
from saeguard.rules.engine.averages import Averages
from saeguard.rules.engine.blocks import Block, nonzero
from saeguard.rules.engine.bounds import bound_of
from saeguard.rules.engine.columns import Columns
from saeguard.rules.engine.thresholds import Test, as_test
from saeguard.rules.engine.windowed import batch_of
from saeguard.rules.matches import Reading
from saeguard.rules.model import Signal


@dataclass(frozen=True, slots=True)
class View:
    """A block as the signals see it."""

    block: Block
    averages: Numbers
    """[averages, rows]"""
    rows: Indices
    """Those on which something is possible."""
    holds: Bools
    """[tests + 1, those rows]: the truth of exact tests, what is possible of others until settled.
    The last belongs to no test and is False."""
    has_holes: bool
    """Some score was not observed."""


class Signals:
    """The tests of some signals over the given columns, with their state in every slot."""

    def __init__(self, signals: Iterable[Signal], columns: Sequence[str]) -> None:
        tests = sorted(dict.fromkeys(map(as_test, signals)), key=lambda t: batch_of(t.aggregate))
        self.columns = Columns((test.aggregate for test in tests), columns)
        bounds = {test: bound_of(test) for test in tests}
        averaged = [test for test in tests if test.aggregate.kind == "ema"]
        bounded = [test for test in tests if bounds[test]]
        free = [test for test in tests if test not in averaged and not bounds[test]]
        self._tests = (*bounded, *averaged, *free)
        self._row_of = {test: row for row, test in enumerate(self._tests)}
        self._averaged = slice(len(bounded), len(bounded) + len(averaged))
        self._free = slice(self._averaged.stop, len(self._tests))
        self.bounded = frozenset(range(len(bounded) + len(averaged)))
        """Tests that are not possible everywhere."""
        self.exact = frozenset(
            row for row in self.bounded if (b := bounds[self._tests[row]]) is None or b.is_exact
        )
        """Tests that hold exactly where they are possible."""
        self._low = np.array([test.low for test in self._tests])
        self._high = np.array([test.high for test in self._tests])
        self._any_high = any(test.high < np.inf for test in self._tests)
        self._any_wraps = any(test.wraps for test in self._tests)
        aggregates = [test.aggregate for test in self._tests]
        self._column_of = np.array([self.columns.of(each) for each in aggregates], np.int64)
        self._windowed = kernels.in_use.windowed(aggregates, self._column_of, len(self.columns))
        self._evidence = kernels.in_use.evidence(
            [(test, bound) for test in bounded if (bound := bounds[test])],
            self._column_of[: len(bounded)],
            len(self.columns),
        )
        self._averages = self._share_averages(averaged)

    def _share_averages(self, tests: Sequence[Test]) -> Averages:
        aggregates = list(dict.fromkeys(test.aggregate for test in tests))
        self._average_of = np.zeros(len(self._tests), np.int64)
        self._average_of[self._averaged] = [aggregates.index(test.aggregate) for test in tests]
        lows = [[t.low for t in tests if t.aggregate == each] for each in aggregates]
        self._lowest = np.array([min(each) for each in lows])
        columns, half_lives = (
            [self.columns.of(a) for a in aggregates],
            [a.tokens for a in aggregates],
        )
        return kernels.in_use.averages(columns, half_lives, len(self.columns))

    def row_of(self, signal: Signal) -> int:
        """Its test."""
        return self._row_of[as_test(signal)]

    def grow(self, num_slots: int) -> None:
        for part in (self._evidence, self._windowed.history, self._averages):
            part.grow(num_slots)

    def begin_runs(self, slots: Indices) -> None:
        """New phase runs begin in these slots."""
        self._evidence.reset(slots)
        self._averages.reset(slots)

    def look(self, block: Block, everywhere: bool) -> View:
        """Take in a block, whose scores are as the columns were given.

        Args:
            block: the next tokens.
            everywhere: look at every row, even where no bounded test is possible.
        """
        block = block.with_scores(self.columns.extend(block.scores))
        has_holes = bool(np.isnan(block.scores.min(initial=0)))
        averages = self._averages.observe(block, has_holes)
        rows, holds = self._table(block, averages, has_holes, everywhere)
        if block.is_one_each:
            self._windowed.remember(block)
        return View(block, averages, rows, holds, has_holes)

    def _table(
        self, block: Block, averages: Numbers, has_holes: bool, everywhere: bool
    ) -> tuple[Indices, Bools]:
        """`rows` and `holds` of a view."""
        is_chosen = np.full(block.num_rows, everywhere)
        above, _ = nonzero((averages >= self._lowest[:, None]).T)
        is_chosen[above] = True
        rows, holds = self._evidence.table(block, has_holes, is_chosen, len(self._tests) + 1)
        holds[self._free] = True
        if above.size:
            values = averages[self._average_of[self._averaged, None], rows]
            holds[self._averaged] = self._hold(self._averaged, values.T).T
        return rows, holds

    def remember(self, view: View) -> None:
        """Keep the end of a block for the windows of the next, when it has been dealt with.

        `look` has done so for blocks of one token each, whose own windows are read from there.
        """
        if not view.block.is_one_each:
            self._windowed.remember(view.block)

    def settle(self, view: View, tests: Indices, places: Indices) -> None:
        """Put the truth in the place of what is possible; places are in `view.rows`."""
        if tests.size:
            values = self._windowed.values(view.block, tests, view.rows[places])
            view.holds[tests, places] = self._hold(tests, values)

    def _hold(self, tests: Indices | slice, values: Numbers) -> Bools:
        """Whether tests hold, of which these are the values, or the values on many rows."""
        above = values >= self._low[tests]
        if not self._any_high:
            return above
        below = values <= self._high[tests]
        if not self._any_wraps:
            return above & below
        return np.where(self._low[tests] <= self._high[tests], above & below, above | below)

    def _values(self, view: View, tests: Indices, rows: Indices) -> Numbers:
        """The aggregates of any tests, each at a row."""
        values = np.empty(len(tests))
        is_average = (tests >= self._averaged.start) & (tests < self._averaged.stop)
        average, other = is_average.nonzero()[0], (~is_average).nonzero()[0]
        values[average] = view.averages[self._average_of[tests[average]], rows[average]]
        values[other] = self._windowed.values(view.block, tests[other], rows[other])
        return values

    def readings(
        self, view: View, asked: Sequence[tuple[Mapping[Signal, int], int]]
    ) -> Iterator[tuple[dict[str, Reading], list[int]]]:
        """What the signals of rules read.

        Args:
            view: of a block.
            asked: the signals of a rule with their tests, and the row.

        Yields:
            The readings, and for those that hold the position of the first token they looked at.
        """
        tests = np.array([test for signals, _ in asked for test in signals.values()])
        rows = np.array([row for signals, row in asked for _ in signals])
        values = self._values(view, tests, rows)
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
            spans = self._windowed.spans[[test]]
            window, _ = self._windowed.history.windows(
                block, np.array([row]), self._column_of[[test]], spans
            )
            back = int((window[0] == value).nonzero()[0][-1])
        return self._windowed.history.position(block, row, back)

    def _looks_at_from(self, block: Block, test: int, row: int) -> int:
        """The position of the first token of the run that a test looks at on a row."""
        return self._windowed.history.position(
            block, row, min(block.ages[row], self._windowed.spans[test] - 1)
        )


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
