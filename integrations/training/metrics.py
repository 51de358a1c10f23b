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


@dataclass(frozen=True, slots=True, eq=False)
class Ranking:
    """Scores in order, so that a figure of any weighing of the requests takes no more sorting."""

    _place: npt.NDArray[np.intp]
    """[requests]: which of the different scores each has, from the lowest."""
    _labels: Flags

    @classmethod
    def of(cls, scores: Doubles, labels: Flags) -> Ranking:
        return cls(np.unique(scores, return_inverse=True)[1], labels)

    def auroc(self, weight: Doubles) -> float:
        """The chance that a positive scores above a negative, ties counted half."""
        positives, negatives = self._by_place(weight)
        below = np.cumsum(negatives) - negatives / 2
        return _share(float(positives @ below), float(positives.sum() * negatives.sum()))

    def recall(self, weight: Doubles) -> float:
        """Of the positives, at the threshold that `FALSE_POSITIVE_RATE` of the negatives pass."""
        positives, negatives = (np.cumsum(side[::-1]) for side in self._by_place(weight))
        passes = negatives <= FALSE_POSITIVE_RATE * negatives[-1] * (1 + 1e-12)
        num_places = int(passes.sum())
        return _share(positives[num_places - 1] if num_places else 0.0, positives[-1])

    def _by_place(self, weight: Doubles) -> tuple[Doubles, Doubles]:
        size = int(self._place.max()) + 1
        positives = np.bincount(self._place, np.where(self._labels, weight, 0.0), size)
        negatives = np.bincount(self._place, np.where(self._labels, 0.0, weight), size)
        return positives.astype(np.float64), negatives.astype(np.float64)


def auroc(scores: Doubles, labels: Flags) -> float:
    """NaN of one class alone."""
    return Ranking.of(scores, labels).auroc(np.ones(len(labels))) if len(labels) else np.nan


def auroc_within(scores: Doubles, labels: Flags, folds: npt.NDArray[np.intp]) -> float:
    """The AUROC over pairs of the same fold: scores of different folds are of different probes."""
    total, num_pairs = 0.0, 0
    for fold in np.unique(folds):
        of_fold = labels[folds == fold]
        pairs = int(of_fold.sum() * (~of_fold).sum())
        if pairs:
            total += pairs * auroc(scores[folds == fold], of_fold)
            num_pairs += pairs
    return _share(total, num_pairs)


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


def _share(part: float, whole: float) -> float:
    return float(part / whole) if whole else np.nan
