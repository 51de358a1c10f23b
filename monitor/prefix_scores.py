"""The scores of prefix-cache blocks: what vLLM takes from its cache it does not compute again, so
the monitor remembers it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from saeguard.monitor.columns import Order
from saeguard.monitor.messages import Floats

_BLOCKS_AT_ONCE = 1024


class PrefixScores:
    """Block hash -> the scores of the block's tokens. The least recently used make room.

    All scores are in one array of a fixed size; pages that were never written cost nothing.
    """

    def __init__(self, block_size: int, num_features: int, max_bytes: int) -> None:
        self._block_size = block_size
        self._max_bytes = max_bytes
        self._slots: OrderedDict[bytes, int] = OrderedDict()  # least recently used first
        self._scores = self._room(num_features)

    @property
    def capacity(self) -> int:
        """In blocks."""
        return len(self._scores)

    def put(self, hashes: Sequence[bytes], blocks: Floats) -> None:
        """Remember blocks of one request, in order; one that is known is replaced.

        Args:
            hashes: theirs.
            blocks: [blocks, block_size, features]
        """
        hashes = hashes[: self.capacity]
        # The first block comes last: whoever finds any of them finds it, so it goes last, too.
        slots = [self._claim(name) for name in reversed(hashes)]
        self._scores[slots[::-1]] = blocks[: len(hashes)]

    def find(self, hashes: Sequence[bytes]) -> tuple[Floats, npt.NDArray[np.bool_]]:
        """The scores of blocks, [blocks, block_size, features], and [blocks] which are known.

        Those of the others are NaN.
        """
        slots = np.array([self._slots.get(name, -1) for name in hashes], np.intp)
        found = slots >= 0
        for name in reversed(hashes):
            if name in self._slots:
                self._slots.move_to_end(name)
        if found.all():
            return self._scores[slots], found
        scores = np.full((len(slots), *self._scores.shape[1:]), np.nan, np.float32)
        scores[found] = self._scores[slots[found]]
        return scores, found

    def rearrange(self, order: Order) -> None:
        """Change what the columns of the scores are; those without a source become NaN.

        Args:
            order: where each new column is among the present ones.
        """
        before, self._scores = self._scores, self._room(len(order))
        newest = list(self._slots.items())[max(0, len(self._slots) - self.capacity) :]
        old_slots = np.array([slot for _, slot in newest], np.intp)
        for start in range(0, len(newest), _BLOCKS_AT_ONCE):
            blocks = before[old_slots[start : start + _BLOCKS_AT_ONCE]]
            self._scores[start : start + len(blocks)] = blocks.take(order, axis=2)
        self._scores[: len(newest), :, order < 0] = np.nan
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
