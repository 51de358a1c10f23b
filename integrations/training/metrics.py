"""How well scores tell positives from negatives, and how sure that is.

Requests of one group are alike: for the intervals groups are drawn again, not requests (a
percentile bootstrap; see rules/calibration/resampling.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from saeguard.integrations.training.material import Doubles, Flags
from saeguard.rules.calibration.intervals import wilson_bounds
from saeguard.rules.calibration.ranking import auroc
from saeguard.rules.calibration.resampling import multiplicities, numbered

FALSE_POSITIVE_RATE = 0.01

Figure = Callable[[Doubles], float]
"""Of how often each request counts [requests]."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def auroc_within(scores: Doubles, labels: Flags, folds: npt.NDArray[np.intp]) -> float:
    """The AUROC over pairs of the same fold: scores of different folds are of different probes."""
    total, num_pairs = 0.0, 0
    for fold in np.unique(folds):
        of_fold = labels[folds == fold]
        pairs = int(of_fold.sum() * (~of_fold).sum())
        if pairs:
            total += pairs * auroc(scores[folds == fold], of_fold)
            num_pairs += pairs
    return total / num_pairs if num_pairs else np.nan


def threshold_at_rate(scores: Doubles, labels: Flags) -> float:
    """The lowest that at most `FALSE_POSITIVE_RATE` of the negatives are above."""
    return float(np.quantile(scores[~labels], 1 - FALSE_POSITIVE_RATE, method="higher"))


def estimate(figure: Figure, labels: Flags, groups: Sequence[str]) -> Estimate:
    """A share with its interval; Wilson's over the groups of positives where all draws agree."""
    found = difference(figure, groups)
    if found.low < found.high:
        return found
    num_groups = len({group for group, label in zip(groups, labels, strict=True) if label})
    return Estimate(found.value, *wilson_bounds(found.value, num_groups))


def difference(figure: Figure, groups: Sequence[str]) -> Estimate:
    """A figure with its interval."""
    number = numbered(groups)
    draws = [figure(drawn[number].astype(float)) for drawn in multiplicities(int(number.max()) + 1)]
    low, high = np.nanquantile(draws, (0.025, 0.975))
    return Estimate(figure(np.ones(len(number))), float(low), float(high))
