"""The last scores and positions of every slot, in rings, and windows over them.

A ring is written in place: token n of a request lies at n modulo the ring's length, so a decode
step writes one row for each request and moves nothing, and its windows lie in the ring. A longer
block could overwrite what its own windows need: these reach from its rows back into the ring, which
is written when the block is done.
"""

from __future__ import annotations

import numpy as np

from saeguard.rules.engine.aggregates import Indices, Scores
from saeguard.rules.engine.blocks import Block, expand, extended


class History:
    """Of `length` tokens at least: the longest window."""

    def __init__(self, length: int, num_columns: int) -> None:
        self._length = 1 << (length - 1).bit_length()
        self._num_columns = num_columns
        self.scores = np.empty((0, self._length, num_columns), np.float32)
        self.positions = np.empty((0, self._length), np.int64)

    def grow(self, num_slots: int) -> None:
        self.scores = extended(self.scores, num_slots)
        self.positions = extended(self.positions, num_slots)

    def remember(self, block: Block) -> None:
        """Write the block's last tokens.

        A block of one token each is written before windows are asked for, any other after that.
        """
        rows: Indices | slice = slice(None)
        lengths = np.diff(block.starts)
        if lengths.max() > self._length:
            counts = np.minimum(lengths, self._length)
            lanes, offsets = expand(counts)
            rows = (block.starts[1:] - counts)[lanes] + offsets
        tokens = block.tokens[rows] & (self._length - 1)
        places = block.slot_of[rows] * self._length + tokens
        self.scores.reshape(-1, self._num_columns)[places] = block.scores[rows]
        self.positions.reshape(-1)[places] = block.positions[rows]

    def windows(
        self, block: Block, rows: Indices, columns: Indices, spans: Indices
    ) -> tuple[Scores, Indices]:
        """Windows that end with the given rows.

        Returns:
            [rows, longest span], newest first, NaN past the span and before the run; and how many
            tokens of each are in the run.
        """
        lengths = np.minimum(spans, block.ages[rows] + 1)
        back = np.arange(int(spans.max()))
        if block.is_one_each:
            windows = self._from_ring(block, rows, columns, back)
        else:
            windows = self._from_block(block, rows, columns, back)
            num_new = rows - block.starts[block.lanes[rows]] + 1
            old = (lengths > num_new).nonzero()[0]
            if old.size:
                windows[old] = self._from_both(block, rows[old], columns[old], back, num_new[old])
        np.copyto(windows, np.nan, where=back >= lengths[:, None])
        return windows, lengths

    def _from_block(self, block: Block, rows: Indices, columns: Indices, back: Indices) -> Scores:
        newest = rows * self._num_columns + columns
        cells = newest[:, None] - back * self._num_columns
        windows: Scores = block.scores.take(cells, mode="clip")
        return windows

    def _from_ring(self, block: Block, rows: Indices, columns: Indices, back: Indices) -> Scores:
        places = block.tokens[rows, None] - back
        places &= self._length - 1
        places *= self._num_columns
        places += (block.slot_of[rows] * (self._length * self._num_columns) + columns)[:, None]
        windows: Scores = self.scores.take(places)
        return windows

    def _from_both(
        self, block: Block, rows: Indices, columns: Indices, back: Indices, num_new: Indices
    ) -> Scores:
        windows = self._from_ring(block, rows, columns, back)
        recent = back[: int(num_new.max())]
        new = self._from_block(block, rows, columns, recent)
        np.copyto(windows[:, : len(recent)], new, where=recent < num_new[:, None])
        return windows

    def position(self, block: Block, row: int, back: int) -> int:
        """The position of the token `back` tokens before a row of the block."""
        lane = block.lanes[row]
        if back <= row - block.starts[lane]:
            return int(block.positions[row - back])
        place = (block.tokens[row] - back) & (self._length - 1)
        return int(self.positions[block.slot_of[row], place])
