"""How well a score tells positives from negatives; in its intervals a group counts as one thing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]
Scores = npt.NDArray[np.floating]
Which = npt.NDArray[np.bool_]

_NUM_RESAMPLES = 500
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
    scores: Scores, labels: Which, groups: Sequence[str], max_false: float = 0.01, seed: int = 0
) -> Accuracy:
    """AUROC, and recall at a rate of false alarms; intervals by drawing whole groups."""
    names, numbers = np.unique(list(groups), return_inverse=True)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(
        len(names), np.full(len(names), 1 / max(len(names), 1)), _NUM_RESAMPLES
    ).T[numbers]
    weights = np.column_stack([np.ones(len(labels)), drawn])
    return Accuracy(
        auroc=_measure(_auroc(scores, labels, weights)),
        recall=_measure(_recall(scores, labels, weights, max_false)),
        num_positives=int(labels.sum()),
        num_negatives=int((~labels).sum()),
    )


def auroc(scores: Scores, labels: Which) -> float:
    """The chance that a positive scores above a negative, ties counted half."""
    return float(_auroc(scores, labels, np.ones((len(labels), 1)))[0])


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


def _auroc(scores: Scores, labels: Which, weights: Doubles) -> Doubles:
    """With each column of weights [requests, draws]."""
    positive, negative = _by_value(scores, labels, weights)
    below = np.cumsum(negative, axis=0) - negative / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        return (positive * below).sum(axis=0) / (positive.sum(axis=0) * negative.sum(axis=0))


def _recall(scores: Scores, labels: Which, weights: Doubles, max_false: float) -> Doubles:
    """At the lowest threshold that at most `max_false` of the negatives reach."""
    positive, negative = _by_value(scores, labels, weights)
    reached = np.cumsum(negative[::-1], axis=0)
    found = np.cumsum(positive[::-1], axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        is_allowed = reached <= max_false * reached[-1] + 1e-9
        return np.where(is_allowed, found, 0.0).max(axis=0) / found[-1]


def _by_value(scores: Scores, labels: Which, weights: Doubles) -> tuple[Doubles, Doubles]:
    """The weight of the positives and of the negatives at each value of the score, rising."""
    _, places = np.unique(scores, return_inverse=True)
    num_values = int(places.max()) + 1 if len(places) else 1
    sums = np.zeros((2, num_values, weights.shape[1]))
    np.add.at(sums, (1 - labels.astype(np.intp), places), weights)
    return sums[0], sums[1]


def _measure(values: Doubles) -> Measure:
    drawn = values[1:][np.isfinite(values[1:])]
    low, high = np.quantile(drawn, _BOUNDS) if len(drawn) else (np.nan, np.nan)
    return Measure(float(values[0]), float(low), float(high))
