"""What requests have from vLLM's prefix cache, and what they leave in it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from saeguard.monitor.columns import Order
from saeguard.monitor.logging import logger
from saeguard.monitor.messages import Floats, NewBlocks, RequestStart
from saeguard.monitor.prefix_scores import Flags, Found, PrefixScores

NEVER = 1 << 62
_UNKNOWN = b""
"""Stands for a hash of which we were not told."""

log = logger("saeguard.monitor")


class Prefixes:
    """The stores of all models, one for each: block hashes do not say which model it is."""

    def __init__(self, num_features: int, max_bytes: int, num_kept: int) -> None:
        """
        Args:
            max_bytes: of each store.
            num_kept: how many rows of a live request are at hand.
        """
        self._num_features = num_features
        self._max_bytes = max_bytes
        self._num_kept = num_kept
        self._stores: dict[tuple[str, int], PrefixScores] = {}

    def of(self, start: RequestStart) -> Prefix:
        """The prefix of a request that begins."""
        return Prefix(start, self._store(start.model, start.block_size))

    def rearrange(self, order: Order) -> None:
        """Change what the columns of the scores are; those without a source become NaN."""
        self._num_features = len(order)
        for store in self._stores.values():
            store.rearrange(order)

    def _store(self, model: str, block_size: int) -> PrefixScores | None:
        if not block_size:
            return None
        store = self._stores.get((model, block_size))
        if store is None:
            store = PrefixScores(block_size, self._num_features, self._max_bytes)
            self._stores[model, block_size] = store
            if block_size > self._num_kept:
                log.warning(
                    "long_blocks",
                    block_size=block_size,
                    record_tokens=self._num_kept,
                    effect="tokens from the prefix cache may count as evicted",
                    hint=f"set record_tokens to {block_size} or more",
                )
        return store


class Prefix:
    """One request's blocks: those that it found, and those that others may find."""

    def __init__(self, start: RequestStart, store: PrefixScores | None) -> None:
        """
        Args:
            store: None if vLLM has no prefix cache.
        """
        self.store = store
        self.block_size = start.block_size
        self._hashes = list(start.block_hashes)
        self._num_passed = start.num_cached // start.block_size if store else 0
        self.cached = [] if start.num_before else [(0, start.num_cached)]
        """From which positions to which its rows were not computed, and did not come yet."""
        self.boundary = NEVER
        """Whose row completes a block that is to be kept."""
        self.whole_from = 0
        """Rows below lack the scores of features that are watched only since then."""
        self._find_boundary()

    @property
    def num_passed_tokens(self) -> int:
        """Blocks up to this position were kept, or were there already."""
        return self._num_passed * self.block_size

    def add(self, made: NewBlocks) -> None:
        """Take the hashes of blocks that it has made while generating."""
        del self._hashes[made.first :]
        self._hashes += [_UNKNOWN] * (made.first - len(self._hashes))  # a message was lost
        self._hashes += made.hashes
        self._find_boundary()

    def pass_by(self, position: int) -> None:
        """Nothing more will come of the blocks before the one that this position is in."""
        self._num_passed = max(self._num_passed, position // self.block_size)
        self._find_boundary()

    def pass_block(self) -> tuple[bytes, bool]:
        """Go on to the next block; the hash of this one, and whether its scores are whole."""
        name, is_whole = self._hashes[self._num_passed], self.num_passed_tokens >= self.whole_from
        self._num_passed += 1
        self._find_boundary()
        return name, is_whole

    def num_complete(self, end: int) -> int:
        """How many more blocks can be kept when there are rows up to `end`."""
        return min(end // self.block_size, len(self._hashes)) - self._num_passed

    def recall(self, begin: int, end: int) -> Found | None:
        """What is known at positions that came from the cache: as of blocks of one position each.
        None if nothing is.
        """
        if self.store is None:
            return None
        size = self.block_size
        first, last = begin // size, -(-end // size)
        names = self._hashes[first:last]
        names += [_UNKNOWN] * (last - first - len(names))
        found = self.store.find(names)
        self.pass_by(end)
        if not found.is_known.any():
            return None
        which = slice(begin - first * size, end - first * size)
        return Found(
            found.scores.reshape(len(names) * size, -1)[which],
            np.repeat(found.is_known, size)[which],
            np.repeat(found.is_whole, size)[which],
        )

    def _find_boundary(self) -> None:
        has_next = self._num_passed < len(self._hashes)
        self.boundary = (self._num_passed + 1) * self.block_size - 1 if has_next else NEVER


def keep_next(prefixes: Sequence[Prefix], blocks: Floats, is_known: Flags) -> None:
    """Keep the next block of each of these prefixes of one model's requests, if all of its tokens
    were observed. What is there several times goes on as many blocks.

    Args:
        blocks: [prefixes, block_size, features]
        is_known: [prefixes, block_size], which tokens were observed.
    """
    store = prefixes[0].store
    assert store is not None
    passed = [prefix.pass_block() for prefix in prefixes]
    which = [i for i in np.flatnonzero(is_known.all(axis=1)) if passed[i][0] != _UNKNOWN]
    names, is_whole = [passed[i][0] for i in which], np.array([passed[i][1] for i in which], bool)
    store.put(names, blocks if len(which) == len(passed) else blocks[which], is_whole)
