"""Exponential averages of all rows of a block: the one aggregate whose past has no end.

With d = 1 - a, and c tokens observed since some token, e = d^c e_before + a Σ d^(c - c_j) x_j. In
pieces of 32 tokens the sum is a product with a fixed matrix or, where scores are missing, a
cumulative one of x_j d^-c_j, in which each term is rounded relative to its own share, too. Pieces
are joined by doubling: the end of each takes in the end before it, then the one two before, four
before and so on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from saeguard.rules.conditions import Bools
from saeguard.rules.engine.aggregates import Indices, Numbers, Scores
from saeguard.rules.engine.blocks import Block, expand, extended

_PIECE = 32  # tokens


class Averages:
    """Some averages, of the given half-lives over the given columns, in every slot."""

    def __init__(self, columns: Sequence[int], half_lives: Sequence[int], num_columns: int) -> None:
        self._num_columns = num_columns
        self._columns = np.array(columns, np.int64)
        decay = 0.5 ** (1 / np.array(half_lives, np.float64))
        self._gain = 1 - decay
        self._powers = decay[:, None] ** np.arange(_PIECE + 1)
        lag = np.arange(_PIECE) - np.arange(_PIECE)[:, None]
        shares = np.where(lag >= 0, self._powers[:, np.abs(lag)], 0.0)
        self._shares = shares * self._gain[:, None, None]  # of each token in each later one
        self._state = np.empty((0, len(columns)))
        self._begun = np.empty((0, len(columns)), np.bool_)  # something was observed in this run

    def grow(self, num_slots: int) -> None:
        self._state = extended(self._state, num_slots)
        self._begun = extended(self._begun, num_slots)

    def reset(self, slots: Indices) -> None:
        self._state[slots] = 0.0
        self._begun[slots] = False

    def observe(self, block: Block, has_holes: bool) -> Numbers:
        """[averages, rows], NaN before the first observed score."""
        if not self._columns.size:
            return np.empty((0, block.num_rows))
        start = self._state.take(block.slots, axis=0)
        if block.is_one_each and not has_holes:
            values = block.scores.take(self._columns, axis=1) - start
            values *= self._gain
            values += start
            self._state[block.slots] = values
            self._begun[block.slots] = True
            return values.T
        new = block.scores.T[self._columns]
        observed = ~np.isnan(new) if has_holes else None
        values = self._scan(_Pieces.of(block.starts), new, start, observed)
        last = block.starts[1:] - 1
        self._state[block.slots] = values[:, last].T
        if observed is None:
            self._begun[block.slots] = True
        else:
            begun = _has_begun(block, observed, self._begun[block.slots].T)
            self._begun[block.slots] = begun[:, last].T
            values[~begun] = np.nan
        return values

    def _scan(
        self, pieces: _Pieces, new: Scores, start: Numbers, observed: Bools | None
    ) -> Numbers:
        """From [averages, rows], and from [lanes, averages] before them."""
        x = pieces.cut(new)
        size = x.shape[2]
        if observed is None:
            values: Numbers = x @ self._shares[:, :size, :size]
            decays = np.broadcast_to(self._powers[:, None, 1 : size + 1], x.shape)
        else:
            counts = pieces.cut(observed).cumsum(axis=2)
            decays = self._powers[np.arange(len(counts))[:, None, None], counts]
            x = np.where(np.isnan(x), 0.0, x) * self._gain[:, None, None]
            values = (x / decays).cumsum(axis=2) * decays
        last = slice(None), np.arange(len(pieces.sizes)), pieces.sizes - 1
        values += decays * pieces.before(start.T, values[last], decays[last])[..., None]
        return pieces.joined(values)


@dataclass(frozen=True, slots=True)
class _Pieces:
    """Lanes cut into pieces of at most 32 tokens."""

    firsts: Indices  # [lanes], the first piece of each
    most: int  # pieces of a lane
    sizes: Indices
    rows: Indices | None  # [pieces, longest], past a piece's size whatever comes next; None: all

    @classmethod
    def of(cls, starts: Indices) -> _Pieces:
        counts = -((starts[:-1] - starts[1:]) // _PIECE)
        lanes, order = expand(counts)
        begins = starts[lanes] + order * _PIECE
        sizes = np.minimum(starts[lanes + 1] - begins, _PIECE)
        longest = int(sizes.max())
        rows = None
        if longest * len(sizes) != starts[-1]:
            rows = np.minimum(begins[:, None] + np.arange(longest), starts[-1] - 1)
        return cls((order == 0).nonzero()[0], int(counts.max()), sizes, rows)

    def cut(self, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """[averages, rows] -> [averages, pieces, longest]"""
        return x.reshape(len(x), len(self.sizes), -1) if self.rows is None else x[:, self.rows]

    def joined(self, values: Numbers) -> Numbers:
        """[averages, pieces, longest] -> [averages, rows]"""
        if self.rows is None:
            return values.reshape(len(values), -1)
        kept: Numbers = values[:, np.arange(values.shape[2]) < self.sizes[:, None]]
        return kept

    def before(self, start: Numbers, ends: Numbers, decays: Numbers) -> Numbers:
        """[averages, pieces] before each piece.

        Args:
            start: [averages, lanes] before each lane.
            ends: [averages, pieces] at the last token, as if all began from zero.
            decays: [averages, pieces], what is left there of what was before the piece.
        """
        ends[:, self.firsts] += decays[:, self.firsts] * start
        decays[:, self.firsts] = 0.0
        step = 1
        while step < self.most:
            ends[:, step:] += decays[:, step:] * ends[:, :-step]
            decays[:, step:] *= decays[:, :-step]
            step *= 2
        before = np.empty_like(ends)
        before[:, 1:] = ends[:, :-1]
        before[:, self.firsts] = start
        return before


def _has_begun(block: Block, observed: Bools, before: Bools) -> Bools:
    """Where something has been observed by then in the run."""
    counts = observed.cumsum(axis=1)
    firsts = block.starts[:-1]
    at_start = counts[:, firsts] - observed[:, firsts]
    return (counts > at_start[:, block.lanes]) | before[:, block.lanes]
