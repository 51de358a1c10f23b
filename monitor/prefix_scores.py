"""The scores of prefix-cache blocks: what vLLM takes from its cache it does not compute again, so
the monitor remembers it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from saeguard.monitor.columns import Order
from saeguard.monitor.messages import Floats

_BLOCKS_AT_ONCE = 1024

Flags = npt.NDArray[np.bool_]


class Found(NamedTuple):
    """What is remembered of some blocks."""

    scores: Floats
    """[blocks, block_size, features]; NaN where the block is not known."""
    is_known: Flags
    """[blocks]"""
    is_whole: Flags
    """[blocks], which of the known ones have the scores of every feature."""


class PrefixScores:
    """Block hash -> the scores of the block's tokens. The least recently used make room.

    All scores are in one array of a fixed size; pages that were never written cost nothing.
    """

    def __init__(self, block_size: int, num_features: int, max_bytes: int) -> None:
        self._block_size = block_size
        self._max_bytes = max_bytes
        self._slots: OrderedDict[bytes, int] = OrderedDict()  # least recently used first
        self._scores = self._room(num_features)
        self._is_whole = np.zeros(self.capacity, np.bool_)

    @property
    def capacity(self) -> int:
        """In blocks."""
        return len(self._scores)

    def put(self, hashes: Sequence[bytes], blocks: Floats, is_whole: Flags) -> None:
        """Remember blocks of one request, in order; one that is known is replaced.

        Args:
            hashes: theirs.
            blocks: [blocks, block_size, features]
            is_whole: [blocks], which have the scores of every feature.
        """
        hashes = hashes[: self.capacity]
        # The first block comes last: whoever finds any of them finds it, so it goes last, too.
        slots = [self._claim(name) for name in reversed(hashes)]
        self._scores[slots[::-1]] = blocks[: len(hashes)]
        self._is_whole[slots[::-1]] = is_whole[: len(hashes)]

    def find(self, hashes: Sequence[bytes]) -> Found:
        """What is known of these blocks, which are used hereby."""
        slots = np.array([self._slots.get(name, -1) for name in hashes], np.intp)
        is_known = slots >= 0
        for name in reversed(hashes):
            if name in self._slots:
                self._slots.move_to_end(name)
        if is_known.all():
            return Found(self._scores[slots], is_known, self._is_whole[slots])
        scores = np.full((len(slots), *self._scores.shape[1:]), np.nan, np.float32)
        scores[is_known] = self._scores[slots[is_known]]
        is_whole = is_known.copy()
        is_whole[is_known] = self._is_whole[slots[is_known]]
        return Found(scores, is_known, is_whole)

    def rearrange(self, order: Order) -> None:
        """Change what the columns of the scores are; those without a source become NaN, and no
        block is whole any more.

        Args:
            order: where each new column is among the present ones.
        """
        before, self._scores = self._scores, self._room(len(order))
        was_whole, self._is_whole = self._is_whole, np.zeros(self.capacity, np.bool_)
        newest = list(self._slots.items())[max(0, len(self._slots) - self.capacity) :]
        old_slots = np.array([slot for _, slot in newest], np.intp)
        for start in range(0, len(newest), _BLOCKS_AT_ONCE):
            blocks = before[old_slots[start : start + _BLOCKS_AT_ONCE]]
            self._scores[start : start + len(blocks)] = blocks.take(order, axis=2)
        self._scores[: len(newest), :, order < 0] = np.nan
        self._is_whole[: len(newest)] = was_whole[old_slots] & (order >= 0).all()
        self._slots = OrderedDict((name, slot) for slot, (name, _) in enumerate(newest))

    def _claim(self, name: bytes) -> int:
        """The slot to write a block to, which is now the one used last."""
        slot = self._slots.pop(name, None)
        if slot is None:
            is_full = len(self._slots) == self.capacity
            slot = self._slots.popitem(last=False)[1] if is_full else len(self._slots)
        self._slots[name] = slot
        return slot

    def _room(self, num_features: int) -> Floats:
        capacity = self._max_bytes // (4 * self._block_size * num_features)
        return np.empty((capacity, self._block_size, num_features), np.float32)
