"""Where signals can possibly hold, kept up to date for every slot.

The weights of evidence, as `bounds.py` has them, are kept in two buckets per test and slot, each as
long as the span. The span of a token lies within its own bucket and the one before, so those two
together bound its weight, and between pieces of evidence the bound only falls. A test is therefore
*possible* from a piece of evidence that fulfils the need until the last one is out of reach, and
nowhere else. For `value` and `max` this is not a bound but the truth.

The n of a mean is the length of its span unless some of it was not observed, so a token with a hole
makes means possible for as long as it is in reach.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from saeguard.rules.conditions import Bools
from saeguard.rules.engine.aggregates import Indices, Numbers, Scores, span
from saeguard.rules.engine.blocks import Block, expand, extended, nonzero, padded
from saeguard.rules.engine.bounds import Bound, span_of_evidence
from saeguard.rules.engine.thresholds import Test

_SLACK = 1 - 1e-4  # for rounding in sums of weights, which are kept as float32
_NEVER = -(2**30)
_ROWS_AT_ONCE = 16

_Intervals = tuple[Indices, Indices, Indices, Indices]
"""Lanes and tests, each with the first and the last token on which the test is possible."""


@dataclass(frozen=True, slots=True)
class _Pieces:
    """The evidence for a test within one bucket, ordered by lane, test and bucket."""

    tests: Indices
    rows: Indices
    last_rows: Indices
    weights: Numbers


class Evidence:
    """The state of tests that have a bound."""

    def __init__(
        self, tests: Sequence[tuple[Test, Bound]], columns: Indices, num_columns: int
    ) -> None:
        """
        Args:
            tests: each with its bound.
            columns: which score each reads.
            num_columns: how many scores a token has.
        """
        bounds = [bound for _, bound in tests]
        self._spans = np.array([span_of_evidence(test.aggregate) for test, _ in tests], np.int64)
        self._reach = np.array([span(test.aggregate) - 1 for test, _ in tests], np.int64)
        self._levels = np.array([bound.level for bound in bounds])
        self._caps = np.array([bound.cap for bound in bounds])
        self._needs = np.array([bound.need for bound in bounds]) * _SLACK
        self._per = np.array([bound.per for bound in bounds], np.int64)
        self._means = (self._per > 1).nonzero()[0]
        self._columns_of_means = columns[self._means]
        tests_of: list[list[int]] = [[] for _ in range(num_columns)]
        for number, column in enumerate(columns.tolist()):
            tests_of[column].append(number)
        self._tests_of = padded(tests_of)
        levels = np.append(self._levels, np.inf).astype(np.float32)
        self._levels_of = levels[self._tests_of]  # of the padding, -1, infinite
        self._lowest = self._levels_of.min(axis=1, initial=np.inf)
        self._lowest_wide = np.tile(self._lowest, _ROWS_AT_ONCE)
        self._until = np.empty((0, len(tests)), np.int32)  # last token on which it is possible
        self._any_until = np.empty(0, np.int64)  # the latest of each slot
        self._bucket = np.empty((0, len(tests)), np.int32)
        self._current = np.empty((0, len(tests)), np.float32)  # weight in that bucket
        self._previous = np.empty((0, len(tests)), np.float32)  # and in the one before

    def grow(self, num_slots: int) -> None:
        self._until = extended(self._until, num_slots)
        self._any_until = extended(self._any_until, num_slots)
        self._bucket = extended(self._bucket, num_slots)
        self._current = extended(self._current, num_slots)
        self._previous = extended(self._previous, num_slots)

    def reset(self, slots: Indices) -> None:
        self._until[slots] = _NEVER
        self._any_until[slots] = _NEVER
        self._bucket[slots] = _NEVER

    def table(
        self, block: Block, has_holes: bool, is_chosen: Bools, height: int
    ) -> tuple[Indices, Bools]:
        """Take in the block: where each test is possible.

        Args:
            block: the next tokens.
            has_holes: some score was not observed.
            is_chosen: [rows] that are looked at even if no test is possible.
            height: rows of the table; what lies beyond the tests is False.

        Returns:
            The rows that are chosen or on which some test is possible, and [height, those rows].
        """
        tests, rows = self._possible(block, has_holes)
        is_chosen[rows] = True
        chosen = is_chosen.nonzero()[0]
        place = np.empty(block.num_rows, np.int64)
        place[chosen] = np.arange(len(chosen))
        table = np.zeros((height, len(chosen)), np.bool_)
        table[tests, place[rows]] = True
        return chosen, table

    def _possible(self, block: Block, has_holes: bool) -> tuple[Indices, Indices]:
        """Pairs of test and row, some of them twice."""
        if block.is_one_each:
            self._take_in(block, has_holes)
            lanes, tests = self._open(block)
            return tests, lanes
        lanes, tests = self._open(block)
        until = self._until[block.slots[lanes], tests].astype(np.int64)
        known = lanes, tests, block.first[lanes], until
        intervals = [known, *self._take_in(block, has_holes)]
        lanes, tests, first, last = _joined(intervals)
        rows = block.starts[lanes] + (first - block.first[lanes])
        counts = np.minimum(last + 1 - first, block.starts[lanes + 1] - rows)
        which, offset = expand(counts)
        return tests[which], rows[which] + offset

    def _open(self, block: Block) -> tuple[Indices, Indices]:
        """What is possible on the first token of each lane, as far as is known: lanes and tests."""
        lanes = (self._any_until[block.slots] >= block.first).nonzero()[0]
        first = block.first[lanes].astype(np.int32)  # numpy compares different widths slowly
        until = self._until.take(block.slots[lanes], axis=0)
        which, tests = nonzero(until >= first[:, None])
        return lanes[which], tests

    def _take_in(self, block: Block, has_holes: bool) -> list[_Intervals]:
        """What the block makes possible."""
        intervals = []
        pieces = self._pieces(block)
        if pieces is not None:
            intervals.append(self._take(block, pieces))
        if has_holes:
            intervals.append(self._take_holes(block))
        return intervals

    def _take_holes(self, block: Block) -> _Intervals:
        """Roughly, which is enough: from the first hole of a lane to the last."""
        which, rows = nonzero(np.isnan(block.scores[:, self._columns_of_means]).T)
        lanes = block.lanes[rows]
        begins = _changes(which, lanes).nonzero()[0]
        ends = np.append(begins[1:], len(rows))[: len(begins)] - 1
        tests = self._means[which[begins]]
        rows, last_rows = rows[begins], rows[ends]
        cells = block.slot_of[rows] * len(self._spans) + tests
        return self._hold_open(block, cells, tests, rows, last_rows)

    def _hold_open(
        self, block: Block, cells: Indices, tests: Indices, rows: Indices, last_rows: Indices
    ) -> _Intervals:
        """Tests are possible from some rows until the last of the lane are out of reach."""
        until = block.tokens[last_rows] + self._reach[tests]
        np.maximum.at(self._until.reshape(-1), cells, until)
        np.maximum.at(self._any_until, block.slot_of[rows], until)
        return block.lanes[rows], tests, block.tokens[rows], until

    def _pieces(self, block: Block) -> _Pieces | None:
        scores = block.scores
        rows, columns = nonzero(self._above_lowest(scores))
        if not rows.size:
            return None
        x = scores[rows, columns]
        cell, number = nonzero(x[:, None] > self._levels_of[columns])
        tests, rows, x = self._tests_of[columns[cell], number], rows[cell], x[cell]
        weights = np.minimum(x - self._levels[tests], self._caps[tests])
        if block.is_one_each:
            return _Pieces(tests, rows, rows, weights)
        of = block.lanes[rows] * len(self._spans) + tests
        order = of.astype(np.min_scalar_type(of.max(initial=0))).argsort(kind="stable")
        tests, rows, of = tests[order], rows[order], of[order]
        begins_here = _changes(of, block.tokens[rows] // self._spans[tests])
        begins = begins_here.nonzero()[0]
        ends = np.append(begins[1:], len(rows))[: len(begins)] - 1
        weights = np.add.reduceat(weights[order], begins) if len(begins) else weights
        return _Pieces(tests[begins], rows[begins], rows[ends], weights)

    def _above_lowest(self, scores: Scores) -> Bools:
        """[rows, columns]. Numpy's inner loop is along a row: several rows at once are faster."""
        if len(scores) % _ROWS_AT_ONCE == 0 and scores.size:
            lowest, table = self._lowest_wide, scores.reshape(-1, len(self._lowest_wide))
        else:
            lowest, table = self._lowest, scores
        above: Bools = table > lowest
        return above.reshape(scores.shape)

    def _take(self, block: Block, pieces: _Pieces) -> _Intervals:
        """Add to the buckets; from which piece on what is possible."""
        tests, rows = pieces.tests, pieces.rows
        cells = block.slot_of[rows] * len(self._spans) + tests
        buckets = block.tokens[rows] // self._spans[tests]
        age, current = buckets - self._bucket.take(cells), self._current.take(cells)
        goes_on, follows = age == 0, age == 1
        if not block.is_one_each:
            opens = _changes(cells)
            goes_on &= opens
            follows &= opens
        weights = pieces.weights + np.where(goes_on, current, 0.0)
        before = np.where(goes_on, self._previous.take(cells), np.where(follows, current, 0.0))
        if not block.is_one_each:
            within = (~opens[1:] & (buckets[1:] == buckets[:-1] + 1)).nonzero()[0]
            before[within + 1] = weights[within]
        # Of each cell the last piece is what stays.
        self._bucket.put(cells, buckets)
        self._current.put(cells, weights)
        self._previous.put(cells, before)
        needs = self._needs[tests] * np.minimum(block.ages[rows] + 1, self._per[tests])
        found = (weights + before >= needs).nonzero()[0]
        last_rows = pieces.last_rows[found]
        return self._hold_open(block, cells[found], tests[found], rows[found], last_rows)


def _joined(intervals: Sequence[_Intervals]) -> _Intervals:
    lanes, tests, first, last = zip(*intervals, strict=True)
    join = np.concatenate
    return join(lanes), join(tests), join(first), join(last)


def _changes(*keys: Indices) -> Bools:
    """Where some key differs from the one before; the first entry does."""
    changes = np.ones(len(keys[0]), np.bool_)
    changes[1:] = keys[0][1:] != keys[0][:-1]
    for key in keys[1:]:
        changes[1:] |= key[1:] != key[:-1]
    return changes
