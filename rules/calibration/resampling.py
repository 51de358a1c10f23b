"""Intervals where requests are alike in groups: whole groups are drawn again, not requests.

A percentile bootstrap over groups (A. Davison, D. Hinkley, Bootstrap methods and their application,
1997, chapter 3.8) is too narrow where groups are few, and no interval at all where every group says
the same. So it is never shown narrower than Wilson's over requests, and in the second case it is
Wilson's over groups.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from saeguard.rules.calibration.intervals import Rate, wilson_bounds
from saeguard.rules.calibration.ranking import Floats, Ranking

NUM_REPEATS = 500
_TAILS = (0.025, 0.975)


def rates_of(
    hits: npt.NDArray[np.bool_], groups: Sequence[str], weights: Floats | None = None
) -> list[Rate]:
    """Of several rates of the same requests the share with its 95 % interval.

    Args:
        hits: [rates, requests]
        groups: [requests]; where all differ the interval is Wilson's.
        weights: [requests] for how many each stands; 1 if not given. Counts are then rounded, and
            Wilson's interval is that of Kish's effective number.
    """
    if hits.shape[1] == 0:
        return [Rate(0, 0, 0.0, 1.0)] * len(hits)
    weight = np.ones(hits.shape[1]) if weights is None else weights
    total = float(weight.sum())
    counts = hits @ weight
    num_effective = total**2 / float(weight @ weight)
    bounds = [wilson_bounds(count / total, num_effective) for count in counts.tolist()]
    number = numbered(groups)
    num_groups = int(number.max()) + 1
    if num_groups < len(number):
        sums = np.stack([np.bincount(number, row * weight, num_groups) for row in hits])
        sizes = np.bincount(number, weight, num_groups)
        drawn = np.stack([sums @ m / (sizes @ m) for m in multiplicities(num_groups)])
        lows, highs = np.quantile(drawn, _TAILS, axis=0)
        for i, share in enumerate((counts / total).tolist()):
            if share in (0, 1):
                bounds[i] = wilson_bounds(share, num_groups)
            else:
                low, high = bounds[i]
                bounds[i] = min(low, float(lows[i])), max(high, float(highs[i]))
    return [
        Rate(round(count), round(total), low, high)
        for count, (low, high) in zip(counts.tolist(), bounds, strict=True)
    ]


def auroc_with_interval(
    levels: npt.NDArray[np.int64], is_positive: npt.NDArray[np.bool_], groups: Sequence[str]
) -> tuple[float, float, float] | None:
    """How often a positive ranks before a negative, ties by half, with its 95 % interval; None
    where one of the two is missing.

    Args:
        levels: [requests] ranks, the smallest first.
    """
    num_fewer = min(int(is_positive.sum()), int((~is_positive).sum()))
    if not num_fewer:
        return None
    number, ranking = numbered(groups), Ranking.of(-levels, is_positive)
    found = ranking.auroc(np.ones(len(levels)))
    draws = multiplicities(int(number.max()) + 1)
    drawn = [ranking.auroc(m[number].astype(float)) for m in draws]
    low, high = np.nanquantile(drawn, _TAILS).tolist()
    if low == high:  # they are told apart without exception
        low, high = wilson_bounds(found, num_fewer)
    return found, min(low, found), max(high, found)


def numbered(groups: Sequence[str]) -> npt.NDArray[np.int64]:
    """0, 1, 2, ... for the groups as they come."""
    numbers = {name: i for i, name in enumerate(dict.fromkeys(groups))}
    return np.array([numbers[name] for name in groups], np.int64)


def multiplicities(num_groups: int) -> Iterator[npt.NDArray[np.int64]]:
    """[groups] how often each was drawn, of so many draws as there are; always the same ones."""
    rng = np.random.default_rng(0)
    for _ in range(NUM_REPEATS):
        yield np.bincount(rng.integers(num_groups, size=num_groups), minlength=num_groups)
