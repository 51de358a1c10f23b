"""A signal's comparison as an interval: `gt: 4` is every number from the one after 4 upwards."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from saeguard.rules.model import Aggregate, Signal


@dataclass(frozen=True, slots=True)
class Test:
    """An aggregate lies within [low, high]. Signals that ask the same share it."""

    aggregate: Aggregate
    low: float
    high: float

    @property
    def wraps(self) -> bool:
        """An angle from `low` across 180 degrees to `high`."""
        return self.low > self.high


def as_test(signal: Signal) -> Test:
    """NaN lies in no interval, so it holds nowhere where nothing was observed."""
    threshold = signal.threshold
    low, high = {
        "gt": (math.nextafter(threshold, math.inf), math.inf),
        "gte": (threshold, math.inf),
        "lt": (-math.inf, math.nextafter(threshold, -math.inf)),
        "lte": (-math.inf, threshold),
        "between": (threshold, threshold if signal.upper is None else signal.upper),
    }[signal.comparison]
    return Test(signal.aggregate, low, high)


def float32_below(number: float) -> float:
    """The largest float32 f <= number: a float32 is above f exactly when it is above the number."""
    with np.errstate(over="ignore"):
        near = np.float32(number)
    return float(near if float(near) <= number else np.nextafter(near, np.float32(-np.inf)))
