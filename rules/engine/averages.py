"""Exponential averages of all rows of a block: the one aggregate whose past has no end.

With d = 1 - a, and c tokens observed since some token, e = d^c e_before + a Σ d^(c - c_j) x_j. In
pieces of 32 tokens the sum is a product with a fixed matrix. The ends of pieces follow the same
law, with the decay of 32 tokens, so they are summed likewise, by 64, and so on. Where scores
are missing, the sum is a cumulative one of x_j d^-c_j, in which each term is rounded relative to
its own share, too, and pieces are joined by doubling, for their decays differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from saeguard.rules.conditions import Bools
from saeguard.rules.engine.aggregates import Indices, Numbers
from saeguard.rules.engine.blocks import Block, expand, extended

_PIECE = 32  # tokens
_PIECES = 64  # pieces that are joined at once


class Averages:
    """Some averages, of the given half-lives over the given columns, in every slot."""

    def __init__(self, columns: Sequence[int], half_lives: Sequence[int]) -> None:
        self._columns = np.array(columns, np.int64)
        self._decay = 0.5 ** (1 / np.array(half_lives, np.float64))
        self._levels: list[tuple[Numbers, Numbers]] = []
        self._state = np.empty((0, len(columns)))  # NaN: nothing observed in this run

    def grow(self, num_slots: int) -> None:
        self._state = extended(self._state, num_slots)

    def reset(self, slots: Indices) -> None:
        self._state[slots] = np.nan

    def observe(self, block: Block, has_holes: bool) -> Numbers:
        """[averages, rows], NaN before the first observed score."""
        if not self._columns.size:
            return np.empty((0, block.num_rows))
        is_step, scores = block.is_one_each, block.scores
        read = scores.take(self._columns, axis=1).T if is_step else scores.T[self._columns]
        new = read.astype(np.float64)
        before = self._state.take(block.slots, axis=0).T
        begun = ~np.isnan(before)
        start = np.where(begun, before, 0.0)
        if not has_holes:
            values = self._step(new, start) if is_step else self._scan(block.starts, new, start)
        else:
            observed = ~np.isnan(new)
            values = self._scan_with_holes(block, np.where(observed, new, 0.0), start, observed)
            values[~_has_begun(block, observed, begun)] = np.nan
        self._state[block.slots] = (values if is_step else values[:, block.starts[1:] - 1]).T
        return values

    def _step(self, new: Numbers, start: Numbers) -> Numbers:
        new -= start
        new *= 1 - self._decay[:, None]
        new += start
        return new

    def _scan(self, starts: Indices, new: Numbers, start: Numbers, level: int = 0) -> Numbers:
        """All scores were observed. On level 1 the pieces of level 0 are what tokens are there."""
        lengths = starts[1:] - starts[:-1]
        pieces = _Pieces.of(starts, lengths, _PIECES if level else _PIECE)
        powers, shares = self._level(level)
        size = pieces.rows.shape[1]
        values: Numbers = new.take(pieces.rows, axis=1) @ shares[:, :size, :size]
        before = start
        if len(pieces.sizes) > len(lengths):
            ends = values[:, np.arange(len(pieces.sizes)), pieces.sizes - 1]
            ends = self._scan(pieces.starts, ends, start, level + 1)
            before = np.empty_like(ends)
            before[:, 1:] = ends[:, :-1]
            before[:, pieces.starts[:-1]] = start
        values += powers[:, None, 1 : size + 1] * before[..., None]
        return pieces.joined(values)

    def _level(self, level: int) -> tuple[Numbers, Numbers]:
        """Powers of the decay [averages, tokens], and [averages, token, later token]."""
        while level >= len(self._levels):
            above = len(self._levels)
            size = _PIECES if above else _PIECE
            decay = self._decay ** (_PIECE * _PIECES ** (above - 1) if above else 1)
            powers = decay[:, None] ** np.arange(size + 1)
            lag = np.arange(size) - np.arange(size)[:, None]
            shares = np.where(lag >= 0, powers[:, np.abs(lag)], 0.0)
            if not self._levels:
                shares *= (1 - self._decay)[:, None, None]
            self._levels.append((powers, shares))
        return self._levels[level]

    def _scan_with_holes(
        self, block: Block, new: Numbers, start: Numbers, observed: Bools
    ) -> Numbers:
        pieces = _Pieces.of(block.starts, np.diff(block.starts), _PIECE)
        counts = observed[:, pieces.rows].cumsum(axis=2)
        decays = self._level(0)[0][np.arange(len(counts))[:, None, None], counts]
        x = new[:, pieces.rows] * (1 - self._decay[:, None, None])
        values = (x / decays).cumsum(axis=2) * decays
        last = slice(None), np.arange(len(pieces.sizes)), pieces.sizes - 1
        before = _before_pieces(pieces.order, start.T, values[last].T, decays[last].T)
        values += decays * before.T[..., None]
        return pieces.joined(values)


@dataclass(frozen=True, slots=True)
class _Pieces:
    """Lanes cut into pieces."""

    starts: Indices  # [lanes + 1], lane i has the pieces from `starts[i]` on
    order: Indices  # of each piece in its lane
    sizes: Indices
    rows: Indices  # [pieces, longest]; past a piece's size whatever comes next

    @classmethod
    def of(cls, starts: Indices, lengths: Indices, size: int) -> _Pieces:
        counts = -(lengths // -size)
        first = np.zeros(len(counts) + 1, np.int64)
        counts.cumsum(out=first[1:])
        lanes, order = expand(counts)
        begins = starts[lanes] + order * size
        sizes = np.minimum(starts[lanes + 1] - begins, size)
        rows = np.minimum(begins[:, None] + np.arange(int(sizes.max())), starts[-1] - 1)
        return cls(first, order, sizes, rows)

    def joined(self, values: Numbers) -> Numbers:
        """[averages, pieces, longest] -> [averages, rows]"""
        longest = self.rows.shape[1]
        if (self.sizes == longest).all():
            return values.reshape(len(values), self.rows.size)
        kept: Numbers = values[:, np.arange(longest) < self.sizes[:, None]]
        return kept


def _before_pieces(order: Indices, start: Numbers, ends: Numbers, decay: Numbers) -> Numbers:
    """[pieces, averages] before each piece: that of its lane, or the end of the piece before."""
    firsts = (order == 0).nonzero()[0]
    ends[firsts] += decay[firsts] * start
    step = 1
    while step <= int(order.max()):
        later = (order >= step).nonzero()[0]
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
