"""How scores order positives and negatives: AUROC, and recall at a rate of false alarms."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Ranking:
    """Scores in order, so that a figure of any weighing of the requests takes no more sorting.

    Weights say how often each request counts, [requests]; of whole numbers the figures are exact.
    """

    _place: npt.NDArray[np.intp]
    """[requests]: which of the different scores each has, from the lowest."""
    _labels: Flags

    @classmethod
    def of(cls, scores: npt.NDArray[np.floating | np.integer], labels: Flags) -> Ranking:
        """
        Args:
            scores: [requests]; what should alert has the higher ones.
            labels: [requests] which are positives.
        """
        return cls(np.unique(scores, return_inverse=True)[1], labels)

    def auroc(self, weight: Floats) -> float:
        """The chance that a positive scores above a negative, ties counted half; NaN where one of
        the two is missing.
        """
        positives, negatives = self._by_place(weight)
        below = np.cumsum(negatives) - negatives / 2
        return _share(float(positives @ below), float(positives.sum() * negatives.sum()))

    def recall(self, weight: Floats, max_false: float) -> float:
        """Share of the positives at the lowest threshold that at most `max_false` of the negatives
        reach; NaN where there are no positives.
        """
        positives, negatives = (np.cumsum(side[::-1]) for side in self._by_place(weight))
        if not len(positives):
            return np.nan
        passes = negatives <= max_false * negatives[-1] * (1 + 1e-12)
        num_places = int(passes.sum())
        return _share(positives[num_places - 1] if num_places else 0.0, positives[-1])

    def _by_place(self, weight: Floats) -> tuple[Floats, Floats]:
        size = int(self._place.max(initial=-1)) + 1
        positives = np.bincount(self._place, np.where(self._labels, weight, 0.0), size)
        negatives = np.bincount(self._place, np.where(self._labels, 0.0, weight), size)
        return positives.astype(np.float64), negatives.astype(np.float64)


def auroc(scores: npt.NDArray[np.floating | np.integer], labels: Flags) -> float:
    """As of a `Ranking`, every request once."""
    return Ranking.of(scores, labels).auroc(np.ones(len(labels)))


def _share(part: float, whole: float) -> float:
    return float(part / whole) if whole else np.nan
