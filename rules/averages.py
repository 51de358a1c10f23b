"""Exponential averages of all rows of a block: the one aggregate whose past has no end.

With d = 1 - a, and c tokens observed since some token, e = d^c (e_before + a Σ x_j d^-c_j): a
cumulative sum. Cut into pieces of 32 tokens d^-c stays small (2^32 for the shortest half-life), and
each term is rounded relative to its own share, as in the token by token form. Pieces are then
joined by doubling: the end of a piece is its own sum plus its decay times the end before.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from saeguard.rules.aggregates import Indices, Numbers
from saeguard.rules.blocks import Block, expand, extended
from saeguard.rules.conditions import Bools

_PIECE = 32  # tokens


class Averages:
    """Some averages, of the given half-lives over the given columns, in every slot."""

    def __init__(self, columns: Sequence[int], half_lives: Sequence[int]) -> None:
        self._columns = np.array(columns, np.int64)
        self._decay = 0.5 ** (1 / np.array(half_lives, np.float64))
        self._powers = self._decay ** np.arange(_PIECE + 1)[:, None]
        self._state = np.empty((0, len(columns)))  # NaN: nothing observed in this run

    def grow(self, num_slots: int) -> None:
        self._state = extended(self._state, num_slots)

    def reset(self, slots: Indices) -> None:
        self._state[slots] = np.nan

    def observe(self, block: Block) -> Numbers:
        """[rows, averages], NaN before the first observed score."""
        if not self._columns.size:
            return np.empty((block.num_rows, 0))
        new = block.scores[:, self._columns].astype(np.float64)
        before = self._state[block.slots]
        values = self._step(new, before) if block.is_one_each else self._scan(block, new, before)
        self._state[block.slots] = values[block.starts[1:] - 1]
        return values

    def _step(self, new: Numbers, before: Numbers) -> Numbers:
        start = np.where(np.isnan(before), 0.0, before)
        after = start + (1 - self._decay) * (new - start)
        return np.where(np.isnan(new), before, after)

    def _scan(self, block: Block, new: Numbers, before: Numbers) -> Numbers:
        observed = ~np.isnan(new)
        num_pieces = -(np.diff(block.starts) // -_PIECE)
        lanes, order = expand(num_pieces)  # of each piece
        begins = block.starts[lanes] + order * _PIECE
        offsets = np.arange(int(min(_PIECE, np.diff(block.starts).max())))
        rows = begins[:, None] + offsets
        is_row = rows < block.starts[lanes + 1][:, None]
        rows = np.minimum(rows, block.num_rows - 1)
        seen = observed[rows] & is_row[..., None]  # [pieces, offsets, averages]
        counts = seen.cumsum(axis=1)
        x = np.where(seen, new[rows], 0.0) * (1 - self._decay)
        decays = self._powers[counts, np.arange(len(self._columns))]
        values = decays * (x / decays).cumsum(axis=1)
        values += decays * self._before_pieces(block, before, order, values, decays)[:, None]
        piece, offset = np.nonzero(is_row)
        begun = self._has_begun(block, observed, before)
        return np.where(begun, values[piece, offset], np.nan)

    def _before_pieces(
        self, block: Block, before: Numbers, order: Indices, values: Numbers, decays: Numbers
    ) -> Numbers:
        """The average before each piece: that of the lane, or the end of the piece before."""
        ends, decay = values[:, -1].copy(), decays[:, -1].copy()
        firsts = np.flatnonzero(order == 0)
        start = np.where(np.isnan(before), 0.0, before)
        ends[firsts] += decay[firsts] * start
        step = 1
        while step <= int(order.max()):
            later = np.flatnonzero(order >= step)
            ends[later], decay[later] = (
                ends[later] + decay[later] * ends[later - step],
                decay[later] * decay[later - step],
            )
            step *= 2
        carried = np.empty_like(ends)
        carried[1:] = ends[:-1]
        carried[firsts] = start
        return carried

    def _has_begun(self, block: Block, observed: Bools, before: Numbers) -> Bools:
        counts = observed.cumsum(axis=0)
        at_start = counts[block.starts[:-1]] - observed[block.starts[:-1]]
        return (counts > at_start[block.lanes]) | ~np.isnan(before)[block.lanes]
