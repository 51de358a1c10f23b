"""Aggregates over windows, of many tests on many rows: which are cut and computed together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise, starmap

import numpy as np

from saeguard.rules.engine.aggregates import (
    FORMULAS,
    Indices,
    Numbers,
    Parameters,
    Windows,
    span,
)
from saeguard.rules.engine.blocks import Block
from saeguard.rules.engine.history import History
from saeguard.rules.model import Aggregate

_MAX_CELLS = 2**18  # of windows at a time
_FEW_CELLS = 2**14  # fewer are cut together, however different their lengths
_LENGTHS = (1, 64, 256, 2048)


def batch_of(aggregate: Aggregate) -> tuple[int, str, int]:
    """Windows of about the same length are cut together, those of a formula computed together.

    Sorted by it, aggregates are in the order that is computed fastest.
    """
    length = next(length for length in _LENGTHS if span(aggregate) <= length)
    formula = FORMULAS.get(aggregate.kind)
    return length, formula.__name__ if formula else "", aggregate.rolling


class Windowed:
    """Some aggregates, with the history that their windows are cut from."""

    def __init__(self, aggregates: Sequence[Aggregate], columns: Indices, num_columns: int) -> None:
        """
        Args:
            aggregates: what to compute. An average among them has no window, and is not asked for.
            columns: which score each reads.
            num_columns: how many scores a token has.
        """
        self.spans = np.array([span(each) for each in aggregates], np.int64)
        self.history = History(int(self.spans.max(initial=1)), num_columns)
        self._longest = int(self.spans.max(initial=1))
        self._columns = columns
        self._parameters = Parameters(aggregates)
        batches = [batch_of(each) for each in aggregates]
        self._formulas = [FORMULAS.get(each.kind) for each in aggregates]
        self._length_of = np.array([length for length, _, _ in batches], np.int64)
        numbers = {batch[1:]: number for number, batch in enumerate(batches)}
        self._batch_of = np.array([numbers[batch[1:]] for batch in batches], np.int64)

    def remember(self, block: Block) -> None:
        """Keep the end of a block for later windows; see `History`."""
        self.history.remember(block)

    def values(self, block: Block, which: Indices, rows: Indices) -> Numbers:
        """Some of the aggregates, each at a row; fastest where neighbours are alike."""
        if len(which) * self._longest <= _FEW_CELLS:
            return self._values(block, which, rows)
        values = np.empty(len(which))
        lengths = self._length_of[which]
        for of in _neighbours(lengths):
            at_once = _MAX_CELLS // int(lengths[of.start])
            for begin in range(of.start, of.stop, at_once):
                part = slice(begin, min(begin + at_once, of.stop))
                values[part] = self._values(block, which[part], rows[part])
        return values

    def _values(self, block: Block, which: Indices, rows: Indices) -> Numbers:
        values = np.empty(len(which))
        if not values.size:
            return values
        columns, spans = self._columns[which], self.spans[which]
        scores, lengths = self.history.windows(block, rows, columns, spans)
        windows = Windows.of(scores, lengths, self._parameters, which)
        for of in _neighbours(self._batch_of[which]):
            formula = self._formulas[which[of.start]]
            assert formula is not None  # only averages have none
            values[of] = formula(windows, of)
        return values


def _neighbours(keys: Indices) -> Iterator[slice]:
    """Stretches of equal keys."""
    bounds = [0, *((keys[1:] != keys[:-1]).nonzero()[0] + 1).tolist(), len(keys)]
    return starmap(slice, pairwise(bounds))
