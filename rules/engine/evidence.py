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
from saeguard.rules.engine.bounds import Bound, q_of, span_of_evidence
from saeguard.rules.engine.thresholds import Test

_SLACK = 1 - 1e-6  # for rounding in sums of weights
_NEVER = -(2**30)
_ROWS_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class _Groups:
    """Evidence of a lane for a test within one bucket. Those of a lane and test are neighbours."""

    lanes: Indices
    tests: Indices
    buckets: Indices
    first: Indices  # token number of the first piece
    last: Indices
    weights: Numbers
    opens: Bools  # first group of its lane and test


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
        self._levels = np.array([bound.level for bound in bounds], np.float32)
        self._needs = np.array([bound.need for bound in bounds]) * _SLACK
        self._per = np.array([bound.per for bound in bounds], np.int64)
        self._weighs = np.array([bound.weighs for bound in bounds], np.bool_)
        self._zero = np.array([bound.zero for bound in bounds])
        self._one = np.array([bound.one for bound in bounds])
        self._rises = np.isfinite(self._one)
        self._q_level = q_of(self._levels, self._zero, self._one)
        self._hole_tests = self._per.nonzero()[0]
        self._hole_columns = columns[self._hole_tests]
        tests_of: list[list[int]] = [[] for _ in range(num_columns)]
        for number, column in enumerate(columns.tolist()):
            tests_of[column].append(number)
        self._tests_of = padded(tests_of)
        levels = np.append(self._levels, np.float32(np.inf))
        self._levels_of = levels[self._tests_of]  # of the padding, -1, infinite
        self._lowest = self._levels_of.min(axis=1, initial=np.inf)
        self._lowest_wide = np.tile(self._lowest, _ROWS_AT_ONCE)
        self._until = np.empty((0, len(tests)), np.int32)  # last token on which it is possible
        self._bucket = np.empty((0, len(tests)), np.int32)
        self._current = np.empty((0, len(tests)))  # weight in that bucket
        self._previous = np.empty((0, len(tests)))  # and in the one before

    def grow(self, num_slots: int) -> None:
        self._until = extended(self._until, num_slots)
        self._bucket = extended(self._bucket, num_slots)
        self._current = extended(self._current, num_slots)
        self._previous = extended(self._previous, num_slots)

    def reset(self, slots: Indices) -> None:
        self._until[slots] = _NEVER
        self._bucket[slots] = _NEVER

    def mark_possible(self, block: Block, has_holes: bool, possible: Bools) -> None:
        """Take in the block, and set what is possible in [tests, rows], which comes all False."""
        first = block.first.astype(np.int32)  # numpy compares different widths slowly
        known = self._until.take(block.slots, axis=0)
        lanes, tests = nonzero(known >= first[:, None])
        until = known[lanes, tests].astype(np.int64)
        _fill(possible, block, lanes, tests, block.first[lanes], until)
        if has_holes:
            self._take_holes(block, possible)
        groups = self._groups(block)
        if groups is not None:
            self._take(block, groups, possible)

    def _take_holes(self, block: Block, possible: Bools) -> None:
        """Roughly, which is enough: from the first hole of a lane to the last."""
        which, rows = nonzero(np.isnan(block.scores[:, self._hole_columns]).T)
        lanes = block.lanes[rows]
        opens = np.ones(len(rows), np.bool_)
        opens[1:] = (which[1:] != which[:-1]) | (lanes[1:] != lanes[:-1])
        begins = opens.nonzero()[0]
        ends = np.append(begins[1:], len(rows))[: len(begins)] - 1
        lanes, tests = lanes[begins], self._hole_tests[which[begins]]
        until = block.tokens[rows[ends]] + self._reach[tests]
        slots = block.slots[lanes]
        self._until[slots, tests] = np.maximum(self._until[slots, tests], until)
        _fill(possible, block, lanes, tests, block.tokens[rows[begins]], until)

    def _groups(self, block: Block) -> _Groups | None:
        scores = block.scores
        rows, columns = nonzero(self._above_lowest(scores))
        if not rows.size:
            return None
        x = scores[rows, columns]
        cell, number = nonzero(x[:, None] > self._levels_of[columns])
        tests, rows, x = self._tests_of[columns[cell], number], rows[cell], x[cell]
        lanes = block.lanes[rows]
        if not block.is_one_each:
            order = ((lanes * len(self._levels) + tests) * len(scores) + rows).argsort()
            tests, rows, x, lanes = tests[order], rows[order], x[order], lanes[order]
        weights = np.where(self._weighs[tests], x - self._levels[tests].astype(np.float64), 1.0)
        rises = self._rises[tests].nonzero()[0]
        if rises.size:
            of = tests[rises]
            weights[rises] = q_of(x[rises], self._zero[of], self._one[of]) - self._q_level[of]
        tokens = block.tokens[rows]
        buckets = tokens // self._spans[tests]
        if block.is_one_each:
            each = np.ones(len(lanes), np.bool_)
            return _Groups(lanes, tests, buckets, tokens, tokens, weights, opens=each)
        return _grouped(lanes, tests, tokens, buckets, weights)

    def _above_lowest(self, scores: Scores) -> Bools:
        """[rows, columns]. Numpy's inner loop is along a row: several rows at once are faster."""
        if len(scores) % _ROWS_AT_ONCE == 0 and scores.size:
            lowest, table = self._lowest_wide, scores.reshape(-1, len(self._lowest_wide))
        else:
            lowest, table = self._lowest, scores
        above: Bools = table > lowest
        return above.reshape(scores.shape)

    def _take(self, block: Block, groups: _Groups, possible: Bools) -> None:
        lanes, tests = groups.lanes, groups.tests
        cells = block.slots[lanes] * len(self._spans) + tests
        age, current = groups.buckets - self._bucket.take(cells), self._current.take(cells)
        goes_on = groups.opens & (age == 0)
        follows = groups.opens & (age == 1)
        weights = groups.weights + np.where(goes_on, current, 0.0)
        before = np.where(goes_on, self._previous.take(cells), np.where(follows, current, 0.0))
        if not block.is_one_each:
            within = ~groups.opens[1:] & (groups.buckets[1:] == groups.buckets[:-1] + 1)
            before[1:][within] = weights[:-1][within]
        length = np.minimum(groups.first - block.run_begins[lanes] + 1, self._per[tests])
        is_possible = weights + before >= self._needs[tests] * np.maximum(length, 1)
        until = groups.last + self._reach[tests]
        self._keep(cells, groups, weights, before)
        found = is_possible.nonzero()[0]
        if found.size:
            lanes, tests, until = lanes[found], tests[found], until[found]
            np.maximum.at(self._until.reshape(-1), cells[found], until)
            _fill(possible, block, lanes, tests, groups.first[found], until)

    def _keep(self, cells: Indices, groups: _Groups, weights: Numbers, before: Numbers) -> None:
        """Of each lane and test, whose places in the state these are, the last bucket."""
        buckets, opens = groups.buckets, groups.opens
        if not opens.all():
            closes = np.empty(len(opens), np.bool_)
            closes[:-1], closes[-1] = opens[1:], True
            cells, buckets = cells[closes], buckets[closes]
            weights, before = weights[closes], before[closes]
        self._bucket.reshape(-1)[cells] = buckets
        self._current.reshape(-1)[cells] = weights
        self._previous.reshape(-1)[cells] = before


def _grouped(
    lanes: Indices, tests: Indices, tokens: Indices, buckets: Indices, weights: Numbers
) -> _Groups:
    """Evidence that is ordered by lane, test and token, joined by bucket."""
    opens = np.ones(len(lanes), np.bool_)
    opens[1:] = (lanes[1:] != lanes[:-1]) | (tests[1:] != tests[:-1])
    begins_here = opens.copy()
    begins_here[1:] |= buckets[1:] != buckets[:-1]
    begins = begins_here.nonzero()[0]
    ends = np.append(begins[1:], len(lanes)) - 1
    return _Groups(
        lanes=lanes[begins],
        tests=tests[begins],
        buckets=buckets[begins],
        first=tokens[begins],
        last=tokens[ends],
        weights=np.add.reduceat(weights, begins),
        opens=opens[begins],
    )


def _fill(
    possible: Bools, block: Block, lanes: Indices, tests: Indices, first: Indices, last: Indices
) -> None:
    """Set [test, rows] from one token number to another, or to the end of the lane."""
    rows = block.starts[lanes] + (first - block.first[lanes])
    counts = np.minimum(last + 1 - first, block.starts[lanes + 1] - rows)
    if block.is_one_each:
        possible[tests, rows] = True
        return
    which, offset = expand(counts)
    possible[tests[which], rows[which] + offset] = True
