"""Distributions as metrics: how many values lie between fixed bounds."""

from __future__ import annotations

import itertools
import threading
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

WITHIN_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
"""Of what happens within the monitor."""
TO_RECORD_S = (0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 5.0)
"""Of what has to reach the disk."""
TO_DESTINATION_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 600.0, 3600.0)
"""Of what has to reach somebody else, who may be away."""


@dataclass(frozen=True, slots=True)
class Distribution:
    """What a histogram holds at one moment."""

    bounds: Sequence[float]
    """The largest value of each bucket; one more bucket holds what is above them all."""
    counts: Sequence[int]
    """[bounds + 1], of each bucket by itself."""
    sum: float

    @property
    def count(self) -> int:
        return sum(self.counts)

    @property
    def cumulative(self) -> list[int]:
        """[bounds + 1], how many values are at most so large."""
        return list(itertools.accumulate(self.counts))


class Histogram:
    """Any thread may add to it and read it."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0
        self._lock = threading.Lock()

    def add(self, value: float) -> None:
        """A value below 0, as of a clock that was set back, counts as 0."""
        value = max(0.0, value)
        with self._lock:
            self._counts[bisect_left(self._bounds, value)] += 1
            self._sum += value

    def read(self) -> Distribution:
        with self._lock:
            return Distribution(self._bounds, tuple(self._counts), self._sum)
