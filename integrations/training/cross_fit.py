"""Nested cross-validation by group: what is chosen is never chosen on what it is measured on.

Every candidate (a hook point with a penalty and an aggregate, say) is fitted without each fold, and
without each pair of folds. The fits without folds j and k tell two things: how candidates do on j
when k is held out, and on k when j is. So the inner loop of every outer fold is there for half of
the fits; and since all scores are kept, any part of the candidates (those of one layer, say) has
its own nested estimate for nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from saeguard.integrations.discovery.splits import Folds
from saeguard.integrations.training.material import Doubles, Flags
from saeguard.integrations.training.metrics import auroc_within

Fit = Callable[[Flags], Doubles]
"""Requests to learn from [requests] -> scores of all requests [candidates, requests]."""


@dataclass(frozen=True, slots=True, eq=False)
class CrossFit:
    """The scores of every candidate by fits that have not seen the request."""

    labels: Flags
    """[requests]"""
    folds: Folds
    """[requests]"""
    outer: Doubles = field(repr=False)
    """[candidates, requests]: fitted without the request's fold."""
    inner: Doubles = field(repr=False)
    """[candidates, folds, requests]: without the request's fold, and without fold k; NaN in it."""

    def choose(self, among: Sequence[int]) -> int:
        """The best of some candidates, of equals the first. What it scores here flatters it."""
        return max(among, key=lambda c: auroc_within(self.outer[c], self.labels, self.folds))

    def nested(self, among: Sequence[int]) -> Nested:
        """Choose in the inner loop of each fold, and score the fold with what was chosen."""
        scores, chosen = np.empty(len(self.labels)), []
        for fold in range(self.inner.shape[1]):
            rest = self.folds != fold
            labels, folds = self.labels[rest], self.folds[rest]
            best = max(among, key=lambda c: auroc_within(self.inner[c, fold, rest], labels, folds))
            negatives = self.inner[best, fold, rest][~labels]
            scores[~rest] = (self.outer[best, ~rest] - negatives.mean()) / _spread(negatives)
            chosen.append(best)
        return Nested(scores, tuple(chosen))


@dataclass(frozen=True, slots=True, eq=False)
class Nested:
    """Scores to estimate with: neither the fit nor the choice has seen the request's group."""

    scores: Doubles = field(repr=False)
    """[requests], in standard deviations of the negatives that the choice was made on: thus scores
    of folds in which different candidates were chosen can be compared."""
    chosen: tuple[int, ...]
    """[folds], the candidate."""


def cross_fit(
    fit: Fit, labels: Flags, folds: Folds, progress: Callable[[], None] = lambda: None
) -> CrossFit:
    """Fit without every fold and every pair of folds.

    Args:
        progress: called after each of `num_fits`.
    """
    num_folds = int(folds.max()) + 1
    scores = []
    for fold in range(num_folds):
        scores.append(fit(folds != fold))
        progress()
    num_candidates = len(scores[0])
    outer = np.empty((num_candidates, len(labels)))
    inner = np.full((num_candidates, num_folds, len(labels)), np.nan)
    for fold in range(num_folds):
        outer[:, folds == fold] = scores[fold][:, folds == fold]
    for j, k in combinations(range(num_folds), 2):
        found = fit((folds != j) & (folds != k))
        inner[:, k, folds == j] = found[:, folds == j]
        inner[:, j, folds == k] = found[:, folds == k]
        progress()
    return CrossFit(labels, folds, outer, inner)


def num_fits(num_folds: int) -> int:
    """How often `cross_fit` fits."""
    return num_folds + num_folds * (num_folds - 1) // 2


def _spread(scores: Doubles) -> float:
    return float(scores.std()) or 1.0
