"""What one call works on: the next tokens of the phase runs of some requests, in flat rows.

A slot is the place of a live request in the state arrays; a lane is a slot's part of a block. Each
token of a request has a number, so that "the last 32 tokens" and "the run began here" are plain
comparisons, and nothing has to be moved when time goes on or a new run begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from saeguard.rules.engine.aggregates import Indices, Scores


@dataclass(frozen=True, slots=True)
class Block:
    """Lane i has the rows `starts[i]` to `starts[i + 1]`, at least one."""

    slots: Indices
    """[lanes], each slot once."""
    first: Indices
    """[lanes], the number of the lane's first token."""
    starts: Indices
    """[lanes + 1]"""
    lanes: Indices
    """[rows]"""
    slot_of: Indices
    """[rows]"""
    tokens: Indices
    """[rows], the number of the row's token in its request."""
    ages: Indices
    """[rows], how many tokens of the phase run came before."""
    scores: Scores
    """[rows, columns]"""
    positions: Indices
    """[rows]"""

    @classmethod
    def of(
        cls,
        slots: Indices,
        run_begins: Indices,
        first: Indices,
        lengths: Indices,
        scores: Scores,
        positions: Indices,
    ) -> Block:
        """The next `lengths` tokens of runs that began with the tokens `run_begins`."""
        if len(slots) == len(scores):
            starts = np.arange(len(slots) + 1)
            lanes, slot_of, tokens, ages = starts[:-1], slots, first, first - run_begins
        else:
            starts = np.zeros(len(slots) + 1, np.int64)
            np.cumsum(lengths, out=starts[1:])
            lanes, rows = np.repeat(np.arange(len(slots)), lengths), np.arange(len(scores))
            slot_of, tokens = slots[lanes], rows + (first - starts[:-1])[lanes]
            ages = tokens - run_begins[lanes]
        return cls(slots, first, starts, lanes, slot_of, tokens, ages, scores, positions)

    def with_scores(self, scores: Scores) -> Block:
        return self if scores is self.scores else replace(self, scores=scores)

    @property
    def num_rows(self) -> int:
        return len(self.lanes)

    @property
    def is_one_each(self) -> bool:
        """Every lane has a single row, as when decoding."""
        return len(self.slots) == len(self.lanes)


def expand(counts: npt.NDArray[np.integer]) -> tuple[Indices, Indices]:
    """For counts (2, 0, 1): the owners (0, 0, 2), and numbers within each owner (0, 1, 0)."""
    owners = np.repeat(np.arange(len(counts)), counts)
    begins = np.cumsum(counts) - counts
    return owners, np.arange(len(owners)) - begins[owners]


def extended(array: npt.NDArray[Any], num_slots: int) -> npt.NDArray[Any]:
    """A copy with room for more slots, the first axis; what is new in it is not set."""
    more = np.empty((num_slots, *array.shape[1:]), array.dtype)
    more[: len(array)] = array
    return more


def nonzero(flags: npt.NDArray[np.bool_]) -> tuple[Indices, Indices]:
    """Like `np.nonzero` of a matrix; several times as fast where little is set."""
    width = flags.shape[1]
    cells = flags.reshape(-1).nonzero()[0]
    rows = cells // max(width, 1)
    return rows, cells - rows * width


def padded(rows: Sequence[Sequence[int]]) -> Indices:
    """[rows, longest], filled up with -1."""
    padded = np.full((len(rows), max(map(len, rows), default=0)), -1, np.int64)
    for number, row in enumerate(rows):
        padded[number, : len(row)] = row
    return padded
