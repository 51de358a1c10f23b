"""The last rows of every live request, in a few arrays, so that a whole step is kept at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from saeguard.monitor.columns import Order, arranged
from saeguard.monitor.messages import Floats, FrameArrays, Ints
from saeguard.monitor.phases import Codes

_FIRST_SLOTS = 64


class RowTable:
    """A ring of the last `num_kept` rows for each of a growing number of slots.

    The row of token position p lies in cell `p % num_kept` of its request's slot. Arrays double
    when slots run out; pages that were never written cost nothing.
    """

    def __init__(self, num_kept: int, num_features: int) -> None:
        self.num_kept = num_kept
        self._free: list[int] = []
        self._positions = np.empty((0, num_kept), np.int32)
        self._token_ids = np.empty((0, num_kept), np.int32)
        self._phases = np.empty((0, num_kept), np.uint8)
        self._scores = np.empty((0, num_kept, num_features), np.float32)

    def open(self) -> int:
        """A free slot."""
        if not self._free:
            self._grow()
        slot = self._free.pop()
        self._positions[slot] = -1
        return slot

    def close(self, slot: int) -> None:
        self._free.append(slot)

    def put(self, slots: npt.NDArray[np.intp], rows: FrameArrays, phases: Codes) -> None:
        """Keep rows; `slots` [rows] says whose. Of rows for the same cell, the last one stays."""
        cells = rows.positions % self.num_kept
        self._positions[slots, cells] = rows.positions
        self._token_ids[slots, cells] = rows.token_ids
        self._phases[slots, cells] = phases
        self._scores[slots, cells] = rows.scores

    def token_id(self, slot: int, position: int) -> int | None:
        """The token that was read at `position`, where it is still known."""
        cell = position % self.num_kept
        if self._positions[slot, cell] != position:
            return None
        return int(self._token_ids[slot, cell])

    def token_ids(self, slot: int, positions: Ints) -> Ints:
        """What was read at these positions, -1 where that is not known."""
        cells = positions % self.num_kept
        is_kept = self._positions[slot, cells] == positions
        return np.where(is_kept, self._token_ids[slot, cells], np.int32(-1))

    def get(self, slot: int) -> tuple[FrameArrays, Codes]:
        """What is kept of a request: one row per position from the first to the last, copies.

        Scores of positions that were not observed are NaN. A request without a slot has no rows.
        """
        known = self._positions[slot] if slot >= 0 else self._positions[:0].ravel()
        known = known[known >= 0]
        if not len(known):
            none = np.empty(0, np.int32)
            return FrameArrays(self._scores[:0, 0], none, none), none.astype(np.uint8)
        last = int(known.max())
        first = max(int(known.min()), last + 1 - self.num_kept)
        positions: Ints = np.arange(first, last + 1, dtype=np.int32)
        cells = positions % self.num_kept
        observed = self._positions[slot, cells] == positions
        scores = np.where(observed[:, None], self._scores[slot, cells], np.float32(np.nan))
        token_ids = np.where(observed, self._token_ids[slot, cells], -1)
        phases = np.where(observed, self._phases[slot, cells], 0).astype(np.uint8)
        return FrameArrays(scores, token_ids, positions), phases

    def kept(self, slot: int, num_rows: int) -> tuple[FrameArrays, Codes]:
        """The rows that are kept of a request's last `num_rows` positions, in order, as copies."""
        positions = self._positions[slot]
        oldest = max(0, int(positions.max()) + 1 - min(num_rows, self.num_kept))
        cells = np.flatnonzero(positions >= oldest)
        cells = cells[positions[cells].argsort()]
        rows = FrameArrays(
            self._scores[slot, cells], self._token_ids[slot, cells], positions[cells]
        )
        return rows, self._phases[slot, cells]

    def at(
        self, slots: npt.NDArray[np.intp], positions: npt.NDArray[np.intp]
    ) -> tuple[Floats, npt.NDArray[np.bool_]]:
        """Scores of requests at positions, and whether they were observed there and are kept.

        Args:
            slots: of any shape that goes with that of `positions`.
        """
        place = slots, positions % self.num_kept
        is_kept = (self._positions[place] == positions) & (self._token_ids[place] >= 0)
        return self._scores[place], is_kept

    def rearrange(self, order: Order) -> None:
        """Change what the columns of the scores are; those without a source become NaN.

        Args:
            order: where each new column is among the present ones.
        """
        scores = np.empty((*self._scores.shape[:2], len(order)), np.float32)
        used = np.nonzero(self._positions >= 0)
        scores[used] = arranged(self._scores[used], order)
        self._scores = scores

    def _grow(self) -> None:
        before = len(self._positions)
        after = max(_FIRST_SLOTS, 2 * before)
        used = np.nonzero(self._positions >= 0)  # of a wide table a small part of gigabytes
        for name in ("_token_ids", "_phases", "_scores"):
            old = getattr(self, name)
            new = np.empty((after, *old.shape[1:]), old.dtype)
            new[used] = old[used]
            setattr(self, name, new)
        unused = np.full((after - before, self.num_kept), -1, np.int32)
        self._positions = np.concatenate([self._positions, unused])
        self._free = list(range(after - 1, before - 1, -1))


def taken(rows: FrameArrays, which: slice | npt.NDArray[np.bool_]) -> FrameArrays:
    """Some of the rows."""
    return FrameArrays(rows.scores[which], rows.token_ids[which], rows.positions[which])


def joined(parts: Sequence[FrameArrays]) -> FrameArrays:
    """One after the other; at least one of them has rows."""
    parts = [part for part in parts if len(part.positions)]
    if len(parts) == 1:
        return parts[0]
    return FrameArrays(
        np.concatenate([part.scores for part in parts]),
        np.concatenate([part.token_ids for part in parts]),
        np.concatenate([part.positions for part in parts]),
    )
