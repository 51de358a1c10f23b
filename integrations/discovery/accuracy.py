"""How well a score tells positives from negatives; in its intervals a group counts as one thing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from saeguard.integrations.training.metrics import difference
from saeguard.rules.calibration import resampling
from saeguard.rules.calibration.intervals import wilson_bounds
from saeguard.rules.calibration.ranking import Ranking

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
    area = resampling.auroc_with_interval(falling, labels, groups)
    return Accuracy(
        auroc=Measure(*area) if area else Measure(np.nan, np.nan, np.nan),
        recall=_recall(Ranking.of(scores, labels), labels, groups, max_false),
        num_positives=int(labels.sum()),
        num_negatives=int((~labels).sum()),
    )


def gain(scores: Scores, others: Scores, labels: Which, groups: Sequence[str]) -> Measure:
    """How much larger the AUROC is than that of others; each draw of groups is one of both."""
    ours, theirs = (Ranking.of(each, labels) for each in (scores, others))
    found = difference(lambda weight: ours.auroc(weight) - theirs.auroc(weight), groups)
    return Measure(found.value, found.low, found.high)


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


def _recall(ranking: Ranking, labels: Which, groups: Sequence[str], max_false: float) -> Measure:
    number = resampling.numbered(groups)
    found = ranking.recall(np.ones(len(labels)), max_false)
    draws = resampling.multiplicities(int(number.max()) + 1)
    drawn = [ranking.recall(m[number].astype(float), max_false) for m in draws]
    low, high = np.nanquantile(drawn, _BOUNDS)
    if low == high:
        low, high = wilson_bounds(found, len(set(number[labels].tolist())))
    return Measure(found, min(float(low), found), max(float(high), found))
