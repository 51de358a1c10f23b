"""Exponential averages of all rows of a block: the one aggregate whose past has no end.

With d = 1 - a, and c tokens observed since some token, e = d^c e_before + a Σ d^(c - c_j) x_j. In
pieces of 32 tokens the sum is a product with a fixed matrix; where scores are missing it is a
cumulative sum of x_j d^-c_j, in which each term is rounded relative to its own share, too. Pieces
are joined by doubling: the end of a piece is its own sum plus its decay times the end before.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from saeguard.rules.conditions import Bools
from saeguard.rules.engine.aggregates import Indices, Numbers
from saeguard.rules.engine.blocks import Block, expand, extended

_PIECE = 32  # tokens


class Averages:
    """Some averages, of the given half-lives over the given columns, in every slot."""

    def __init__(self, columns: Sequence[int], half_lives: Sequence[int]) -> None:
        self._columns = np.array(columns, np.int64)
        self._decay = 0.5 ** (1 / np.array(half_lives, np.float64))
        self._powers = self._decay[:, None] ** np.arange(_PIECE + 1)
        lag = np.arange(_PIECE) - np.arange(_PIECE)[:, None]
        shares = (1 - self._decay)[:, None, None] * self._decay[:, None, None] ** np.abs(lag)
        self._shares = np.where(lag >= 0, shares, 0.0)  # [averages, token, later token]
        self._state = np.empty((0, len(columns)))  # NaN: nothing observed in this run

    def grow(self, num_slots: int) -> None:
        self._state = extended(self._state, num_slots)

    def reset(self, slots: Indices) -> None:
        self._state[slots] = np.nan

    def observe(self, block: Block, has_holes: bool) -> Numbers:
        """[averages, rows], NaN before the first observed score."""
        if not self._columns.size:
            return np.empty((0, block.num_rows))
        new = block.scores.T[self._columns].astype(np.float64)
        before = self._state[block.slots].T
        begun = ~np.isnan(before)
        start = np.where(begun, before, 0.0)
        if not has_holes:
            values = self._step(new, start) if block.is_one_each else self._scan(block, new, start)
        else:
            observed = ~np.isnan(new)
            values = self._scan(block, np.where(observed, new, 0.0), start, observed)
            values[~_has_begun(block, observed, begun)] = np.nan
        self._state[block.slots] = values[:, block.starts[1:] - 1].T
        return values

    def _step(self, new: Numbers, start: Numbers) -> Numbers:
        new -= start
        new *= 1 - self._decay[:, None]
        new += start
        return new

    def _scan(
        self, block: Block, new: Numbers, start: Numbers, observed: Bools | None = None
    ) -> Numbers:
        lengths = np.diff(block.starts)
        lanes, order = expand(-(lengths // -_PIECE))  # of each piece
        begins = block.starts[lanes] + order * _PIECE
        sizes = np.minimum(block.starts[lanes + 1] - begins, _PIECE)
        offsets = np.arange(int(sizes.max()))
        rows = np.minimum(begins[:, None] + offsets, block.num_rows - 1)
        x = new[:, rows]  # [averages, pieces, offsets]; past a piece's size whatever comes next
        if observed is None:
            decays = self._powers[:, None, 1 : len(offsets) + 1]
            values = x @ self._shares[:, : len(offsets), : len(offsets)]
        else:
            counts = observed[:, rows].cumsum(axis=2)
            decays = self._powers[np.arange(len(counts))[:, None, None], counts]
            values = (x * (1 - self._decay[:, None, None]) / decays).cumsum(axis=2) * decays
        last = slice(None), np.arange(len(sizes)), sizes - 1
        decay = np.broadcast_to(decays, values.shape)[last]
        values += decays * _before_pieces(order, start.T, values[last].T, decay.T).T[..., None]
        kept: Numbers = values[:, offsets < sizes[:, None]]
        return kept


def _before_pieces(order: Indices, start: Numbers, ends: Numbers, decay: Numbers) -> Numbers:
    """[pieces, averages] before each piece: that of its lane, or the end of the piece before."""
    firsts = np.flatnonzero(order == 0)
    ends[firsts] += decay[firsts] * start
    step = 1
    while step <= int(order.max()):
        later = np.flatnonzero(order >= step)
        end_before, decay_before = ends[later - step], decay[later - step]
        ends[later] += decay[later] * end_before
        decay[later] *= decay_before
        step *= 2
    carried = np.empty_like(ends)
    carried[1:] = ends[:-1]
    carried[firsts] = start
    return carried


def _has_begun(block: Block, observed: Bools, before: Bools) -> Bools:
    """Where something has been observed by then in the run."""
    counts = observed.cumsum(axis=1)
    firsts = block.starts[:-1]
    at_start = counts[:, firsts] - observed[:, firsts]
    return (counts > at_start[:, block.lanes]) | before[:, block.lanes]
