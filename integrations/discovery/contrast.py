"""How well numbers of requests tell positives from negatives, beyond what the requests' lengths,
positions and sources tell, and how likely the best of them are chance.

The contrast of a feature is a partial rank correlation: that of the label with the feature's ranks,
once both are cleared of what a linear model makes of the covariates (R. Frisch and F. V. Waugh,
Econometrica 1, 1933). It says how sure a difference is, not how large: where positives are few, a
feature that is 0 on most requests correlates more than one that ranks all requests better. How
large it is says the AUROC, cleared of the covariates likewise.

Chance is measured by giving the labels to others: within a group where it has both labels, between
groups where each has one, and only among requests of one source. So requests that are alike for a
reason do not count as many.

A feature's p-value is the share of what chance has made of all features that is as large as what
the feature has: 200 shuffles of its own alone could make none small enough among 16,000 features.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]
Which = npt.NDArray[np.bool_]

_TINY = 1e-9


def ranks(values: npt.NDArray[np.floating]) -> Doubles:
    """Of each column's values, [requests, features]; equal values share the mean of theirs."""
    out = np.empty(values.shape)
    for j, column in enumerate(values.T):
        ordered = np.sort(column)
        left = np.searchsorted(ordered, column, "left")
        out[:, j] = (left + np.searchsorted(ordered, column, "right") - 1) / 2
    return out


def covariates(
    num_tokens: npt.NDArray[np.intp], first_positions: npt.NDArray[np.intp], strata: Sequence[str]
) -> Doubles:
    """What a label may be told from without any activation, [requests, covariates]: the number of
    tokens, where they begin, and the stratum.
    """
    numbers = ranks(np.stack([num_tokens, first_positions], axis=1).astype(np.float64))
    kinds = sorted(set(strata))
    dummies = np.array([[s == kind for kind in kinds] for s in strata], np.float64)
    return np.concatenate([numbers, dummies], axis=1)


@dataclass(frozen=True, slots=True)
class Difference:
    """Between positives and negatives, of some features."""

    contrasts: Doubles
    """In units of what chance makes of it, [features]; NaN where a feature is the same for all."""
    null: Doubles
    """What chance has made of it, likewise, [features, permutations]."""
    aurocs: Doubles
    """The chance that a positive is above a negative of the same covariates, [features]."""


class Contrast:
    """The partial rank correlation with some labels, and with many that were given to others."""

    def __init__(self, labels: Which, known: Doubles, shuffled: Which) -> None:
        """
        Args:
            labels: [requests].
            known: the covariates, [requests, covariates].
            shuffled: [requests, permutations].
        """
        basis, sizes, _ = np.linalg.svd(known, full_matrices=False)
        self._basis = basis[:, sizes > _TINY * sizes[0]]
        targets = np.column_stack([labels, shuffled]).astype(np.float64)
        self._targets, lengths = self._unit(targets)
        # Of ranks that are cleared: from a correlation to a difference of the classes' mean ranks.
        self._to_auroc = 1 / max(lengths[0] * len(labels), _TINY)

    def __call__(self, values: npt.NDArray[np.floating]) -> Difference:
        """Of each feature's values [requests, features]."""
        cleared, lengths = self._unit(ranks(values))
        found = cleared.T @ self._targets
        null = found[:, 1:]
        spread = null.std(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            scaled = (found - null.mean(axis=1, keepdims=True)) / spread[:, None]
        scaled[spread < _TINY] = np.nan
        aurocs = 0.5 + found[:, 0] * lengths * self._to_auroc
        return Difference(scaled[:, 0], scaled[:, 1:], aurocs)

    def _unit(self, columns: Doubles) -> tuple[Doubles, Doubles]:
        """What the covariates do not tell of each column, of length 1, 0 where that is nothing; and
        the lengths that it had.
        """
        rest = columns - self._basis @ (self._basis.T @ columns)
        length = np.linalg.norm(rest, axis=0)
        is_told = length <= 1e-6 * np.maximum(np.linalg.norm(columns, axis=0), _TINY)
        return np.where(is_told, 0.0, rest / np.maximum(length, _TINY)), length


def shuffled_labels(
    labels: Which, groups: Sequence[str], strata: Sequence[str], num: int, seed: int = 0
) -> Which:
    """Labels as they might have been, were there nothing behind them, [requests, num].

    Labels of groups that have both are exchanged within the group; groups that have one exchange it
    with other such groups, among requests of the same stratum.
    """
    rng = np.random.default_rng(seed)
    members: dict[tuple[str, str], list[int]] = defaultdict(list)
    for i, (group, stratum) in enumerate(zip(groups, strata, strict=True)):
        members[stratum, group].append(i)
    out = np.repeat(labels[:, None], num, axis=1)
    pure: dict[str, list[list[int]]] = defaultdict(list)
    for (stratum, _), places in members.items():
        if labels[places].all() or not labels[places].any():
            pure[stratum].append(places)
        else:
            out[places] = rng.permuted(out[places], axis=0)
    for blocks in pure.values():
        owners = np.repeat(np.arange(len(blocks)), [len(places) for places in blocks])
        of_groups = np.array([labels[places[0]] for places in blocks])
        dealt = rng.permuted(np.repeat(of_groups[:, None], num, axis=1), axis=0)
        out[[i for places in blocks for i in places]] = dealt[owners]
    return out


class Chance:
    """How often chance makes a contrast at least so large, of however many features."""

    _REACH, _STEP = 40.0, 0.002

    def __init__(self) -> None:
        self._counts = np.zeros(int(2 * self._REACH / self._STEP) + 1, np.int64)

    def add(self, null: npt.NDArray[np.floating]) -> None:
        """Contrasts of shuffled labels, of any shape; NaN counts for nothing."""
        self._counts += np.bincount(self._bins(null[~np.isnan(null)]), minlength=len(self._counts))

    def join(self, other: Chance) -> None:
        """What chance has made of other features."""
        self._counts += other._counts

    def p_values(self, found: Doubles) -> Doubles:
        """One-sided; NaN where a contrast is NaN."""
        as_large = np.cumsum(self._counts[::-1])[::-1]
        is_known = ~np.isnan(found)
        out = np.full(found.shape, np.nan)
        out[is_known] = (1 + as_large[self._bins(found[is_known])]) / (1 + as_large[0])
        return out

    def _bins(self, values: npt.NDArray[np.floating]) -> npt.NDArray[np.intp]:
        # Downwards: a contrast counts as no larger than it is, and chance as no smaller.
        inside = np.clip(values, -self._REACH, self._REACH - self._STEP)
        return ((inside + self._REACH) / self._STEP).astype(np.intp)
