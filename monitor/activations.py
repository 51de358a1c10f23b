"""How often each watched feature has which score: what shows that it drifts.

Only a sample is looked at, or this would cost a good part of what the rules do: every 61st row that
rules see, and of the features the first 64, for each makes 16 series. A row without a number does
not count, and a score below 0 counts as 0: of a feature that can be negative, a probe's or a
router's, the histogram is of how far it is above.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence

import numpy as np

from saeguard.monitor.columns import Order
from saeguard.monitor.histograms import Distribution
from saeguard.monitor.logging import logger
from saeguard.monitor.messages import Floats

EVERY = 61
"""A prime, or in a batch of a fixed size it were always the same requests' turn."""
MAX_FEATURES = 64
_AT_ONCE = 128
"""Rows that are counted together: the few of one decode step are hardly worth the calls."""
BOUNDS = (0.0, *(2.0**i for i in range(-3, 9)))
_BOUNDS = np.array(BOUNDS, np.float32)
_NUM_BUCKETS = len(BOUNDS) + 1

log = logger("saeguard.monitor")


class Activations:
    """A histogram for each feature. One thread adds, any may read."""

    def __init__(self, columns: Sequence[str], left_out: Collection[str] = ()) -> None:
        """
        Args:
            columns: names of all score columns.
            left_out: those that are no features.
        """
        self._features, self._columns = _first(columns, left_out)
        self._counts = np.zeros((len(self._features), _NUM_BUCKETS), np.int64)
        self._sums = np.zeros(len(self._features))
        self._waiting: list[Floats] = []
        self._num_to_skip = 0
        self._lock = threading.Lock()

    def add(self, scores: Floats) -> None:
        """Keep those rows of [tokens, features] whose turn it is."""
        rows = scores[self._num_to_skip :: EVERY].take(self._columns, axis=1)
        self._num_to_skip = (self._num_to_skip - len(scores)) % EVERY
        if len(rows):
            with self._lock:
                self._waiting.append(rows)
                if sum(map(len, self._waiting)) >= _AT_ONCE:
                    self._count()

    def adopt(self, columns: Sequence[str], order: Order, left_out: Collection[str] = ()) -> None:
        """Go on with other columns, each of which begins anew unless `order` knows it."""
        with self._lock:
            self._count()
            known = {column: i for i, column in enumerate(self._columns)}
            self._features, self._columns = _first(columns, left_out)
            before = np.array([known.get(int(order[i]), -1) for i in self._columns])
            self._counts = np.where(before[:, None] < 0, 0, self._counts[before])
            self._sums = np.where(before < 0, 0, self._sums[before])

    def read(self) -> dict[str, Distribution]:
        """By the names of the features."""
        with self._lock:
            self._count()
            kept = zip(self._features, self._counts.tolist(), self._sums.tolist(), strict=True)
            return {name: Distribution(BOUNDS, counts, total) for name, counts, total in kept}

    def _count(self) -> None:
        """Enter the rows that wait."""
        if not self._waiting:
            return
        rows = np.concatenate(self._waiting)
        self._waiting.clear()
        num_features = rows.shape[1]
        places = np.flatnonzero(rows > 0)
        above, features = rows.ravel()[places], places % num_features
        buckets = features * _NUM_BUCKETS + np.searchsorted(_BOUNDS, above)
        counts = np.bincount(buckets, minlength=num_features * _NUM_BUCKETS)
        self._counts += counts.reshape(num_features, _NUM_BUCKETS)
        self._counts[:, 0] += (rows <= 0).sum(axis=0)
        self._sums += np.bincount(features, above, minlength=num_features)


def _first(columns: Sequence[str], left_out: Collection[str]) -> tuple[list[str], list[int]]:
    """The first features, and the columns that they are."""
    wanted = [(name, i) for i, name in enumerate(columns) if name not in left_out]
    if more := [name for name, _ in wanted[MAX_FEATURES:]]:
        log.warning("features_without_histogram", features=more)
    kept = wanted[:MAX_FEATURES]
    return [name for name, _ in kept], [i for _, i in kept]
