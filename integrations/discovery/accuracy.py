"""How well a score tells positives from negatives; in its intervals a group counts as one thing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from saeguard.rules.calibration import resampling
from saeguard.rules.calibration.intervals import wilson_bounds

Doubles = npt.NDArray[np.float64]
Scores = npt.NDArray[np.floating]
Which = npt.NDArray[np.bool_]

_BOUNDS = (0.025, 0.975)


@dataclass(frozen=True, slots=True)
class Measure:
    """A number with its 95 % interval; NaN where there is nothing to tell apart."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Of a score, on some requests."""

    auroc: Measure
    recall: Measure
    """Where at most 1 % of these negatives score as high."""
    num_positives: int
    num_negatives: int


def accuracy(
    scores: Scores, labels: Which, groups: Sequence[str], max_false: float = 0.01
) -> Accuracy:
    """AUROC, and recall at a rate of false alarms."""
    _, falling = np.unique(-scores, return_inverse=True)
    area = resampling.auroc(falling, labels, groups)
    return Accuracy(
        auroc=Measure(*area) if area else Measure(np.nan, np.nan, np.nan),
        recall=_recall(falling, labels, groups, max_false),
        num_positives=int(labels.sum()),
        num_negatives=int((~labels).sum()),
    )


def auroc(scores: Scores, labels: Which) -> float:
    """The chance that a positive scores above a negative, ties counted half."""
    negatives = np.sort(scores[~labels])
    below = np.searchsorted(negatives, scores[labels], "left")
    not_above = np.searchsorted(negatives, scores[labels], "right")
    return float((below + not_above).mean() / 2 / max(len(negatives), 1))


def threshold_for(scores: Scores, labels: Which, max_false: float) -> float:
    """The lowest threshold that at most this share of the negatives reaches, half-way between two
    scores that occur, in the digits that a rule shows.
    """
    negatives = np.sort(scores[~labels])
    num_allowed = int(max_false * len(negatives))
    if num_allowed >= len(negatives):
        return float(scores.min())
    excluded = float(negatives[-1 - num_allowed])
    above = scores[scores > excluded]
    middle = (excluded + float(above.min())) / 2 if len(above) else excluded
    threshold = float(f"{middle:g}")
    return threshold if threshold > excluded else float(np.nextafter(np.float32(excluded), np.inf))


def _recall(
    levels: npt.NDArray[np.intp], labels: Which, groups: Sequence[str], max_false: float
) -> Measure:
    """At the lowest threshold that at most `max_false` of the negatives reach.

    Args:
        levels: [requests] ranks, that of the highest score first.
    """
    number, size = resampling.numbered(groups), int(levels.max()) + 1

    def recall(weights: Doubles) -> float:
        positive, negative = (
            np.cumsum(np.bincount(levels[side], weights[side], size)) for side in (labels, ~labels)
        )
        is_allowed = negative <= max_false * negative[-1] + 1e-9
        return float(positive[is_allowed].max(initial=0.0) / positive[-1])

    with np.errstate(invalid="ignore"):  # where no positive was drawn
        found = recall(np.ones(len(labels)))
        draws = resampling.multiplicities(int(number.max()) + 1)
        low, high = np.nanquantile([recall(m[number].astype(float)) for m in draws], _BOUNDS)
    if low == high:
        low, high = wilson_bounds(found, len(set(number[labels].tolist())))
    return Measure(found, min(float(low), found), max(float(high), found))
