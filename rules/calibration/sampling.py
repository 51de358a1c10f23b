"""Which requests somebody should label, to learn what a threshold misses.

Labels of alerts cannot tell that. Of the requests nearest below the threshold some are drawn by
chance, and each then stands for as many as it was drawn from (D. Horvitz, D. Thompson, A
generalization of sampling without replacement from a finite universe, JASA 47, 1952).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from saeguard.rules.calibration.curves import strictest_rows
from saeguard.rules.calibration.sweep import Sweep

BAND = 10
"""Requests among which each one is drawn, if there are so many."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """A request to be labelled."""

    index: int
    """In the order of the sweep's columns."""
    value: float
    """The strictest threshold at which the rule matches in it."""
    position: int
    """Of the token with which it does."""
    weight: float
    """For how many requests it stands."""


@dataclass(frozen=True, slots=True)
class Draw:
    """What came of it."""

    drawn: tuple[Drawn, ...]
    """The nearest first."""
    num_in_band: int
    """From which they were drawn."""
    num_below: int
    """All in which the rule is silent; of those outside the band labels will tell nothing."""


def draw_below(found: Sweep, sources: Sequence[str], number: int, seed: int = 0) -> Draw:
    """Draw requests from the nearest below the threshold, of each source its share, at least one.

    Args:
        sources: of each request. Where there are more than can be drawn they are not told apart.
    """
    rows = strictest_rows(found)
    now = int(np.flatnonzero(found.thresholds == found.signal.threshold)[0])
    below = np.flatnonzero(rows > now)
    near = below[rows[below] < len(found.thresholds)]
    band = near[np.argsort(rows[near], kind="stable")][: BAND * number]
    rng = np.random.default_rng(seed)
    drawn = [
        Drawn(
            index=int(i),
            value=float(found.thresholds[rows[i]]),
            position=int(found.positions[rows[i], i]),
            weight=len(stratum) / take,
        )
        for stratum, take in _strata(band, sources, number)
        for i in rng.choice(stratum, take, replace=False)
    ]
    return Draw(tuple(sorted(drawn, key=lambda d: rows[d.index])), len(band), len(below))


def _strata(
    band: npt.NDArray[np.int64], sources: Sequence[str], number: int
) -> list[tuple[list[int], int]]:
    """Requests of the band that are drawn from together, and how many of them."""
    strata: dict[str, list[int]] = {}
    for i in band.tolist():
        strata.setdefault(sources[i], []).append(i)
    if len(strata) > number:
        strata = {"": band.tolist()}
    found = sorted(strata.items())
    number = min(number, len(band))
    takes = [max(1, int(number * len(members) / len(band))) for _, members in found]
    while sum(takes) != number:  # what rounding left goes where the share is furthest off
        step = 1 if sum(takes) < number else -1
        lacks = [
            step * (number * len(members) / len(band) - take) if 0 < take + step <= len(members)
            else -np.inf
            for (_, members), take in zip(found, takes, strict=True)
        ]  # fmt: skip
        takes[int(np.argmax(lacks))] += step
    return [(members, take) for (_, members), take in zip(found, takes, strict=True)]
