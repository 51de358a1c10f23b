"""How many tokens have scores above each of some cuts, for each unit.

    share(x) = tokens with a score of x or more / tokens

is one minus the distribution function. The distance of Kolmogorov and Smirnov is the largest
difference of two of them, over all x; here over cuts at the quantiles of both sides together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from saeguard.rules.calibration.statistics import FeatureStatistics, bin_numbers
from saeguard.rules.drift.samples import Assigned, Units
from saeguard.rules.phases import Phase
from saeguard.rules.recordings.offline import RecordedRequest

NUM_CUTS = 60

Numbers = npt.NDArray[np.float64]
Bins = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """One feature in one phase."""

    units: Units
    cuts: Bins
    """[cuts], rising: bins of scores, `bin_numbers`. One of them is 1, of all scores above 0."""
    above: Numbers
    """[units, cuts]: tokens in the cut's bin or above it."""
    tokens: Numbers
    """[units]"""
    statistics: tuple[FeatureStatistics, FeatureStatistics]
    """Of all tokens of the reference, and of all recent ones."""
    is_reference_known: bool = True
    """False: of the reference there are these statistics, and no units."""

    def shares(self, weights: npt.NDArray[Any], strata: Numbers) -> Numbers:
        """[draws, cuts], of units that count as often as the weights [draws, units] say; in each
        stratum, and then the strata by their weights [strata].
        """
        found = np.zeros((len(weights), len(self.cuts)))
        for i in np.flatnonzero(strata):
            rows = self.units.stratum == i
            of_stratum = weights[:, rows].astype(float)
            tokens = of_stratum @ self.tokens[rows]
            above = of_stratum @ self.above[rows]
            found += strata[i] * above / np.maximum(tokens, 1.0)[:, None]
        return found

    def observed_shares(self) -> tuple[Numbers, Numbers]:
        """[cuts] of each side, the reference first."""
        recent = self.units.is_recent[None]
        before, after = (self.shares(side, self.strata_weights)[0] for side in (~recent, recent))
        if not self.is_reference_known:
            reference = self.statistics[0]
            before = np.array([reference.share_from(int(cut)) or 0.0 for cut in self.cuts])
        return before, after

    @property
    def strata_weights(self) -> Numbers:
        """[strata], together 1: as much as the comparison of its two sides tells, so that a topic
        that has become more frequent is no difference. 0 of what one side has not.
        """
        num_strata = int(self.units.stratum.max(initial=-1)) + 1
        sides = [
            np.bincount(self.units.stratum[side], self.tokens[side], minlength=num_strata)
            for side in (~self.units.is_recent, self.units.is_recent)
        ]
        if not self.is_reference_known:
            sides[0] = np.full(num_strata, float(self.statistics[0].num_tokens))
        weights = sides[0] * sides[1] / np.maximum(sides[0] + sides[1], 1.0)
        return np.asarray(weights / max(weights.sum(), 1e-300))


def tabulate(
    assigned: Assigned,
    feature: str,
    phase: Phase,
    thresholds: Sequence[float] = (),
    reference: FeatureStatistics | None = None,
) -> Table:
    """Count the scores of one feature in one phase.

    Args:
        thresholds: scores at which there is to be a cut.
        reference: what is known of one side where there are no requests of it.
    """
    of_units = [_scores(requests, feature, phase) for requests in assigned.requests]
    bins = bin_numbers(np.concatenate([np.zeros(0, np.float32), *of_units]))
    rows = np.repeat(np.arange(len(of_units)), [len(scores) for scores in of_units])
    cuts = _cuts(bins, reference, bin_numbers(np.array(thresholds, float)))
    place = np.searchsorted(cuts, bins, side="right")  # how many of the cuts a score reaches
    counts = np.zeros((len(of_units), len(cuts) + 1))
    np.add.at(counts, (rows, place), 1.0)
    above = counts[:, ::-1].cumsum(axis=1)[:, ::-1]
    is_recent = assigned.units.is_recent
    old, new = (
        FeatureStatistics.of_bins(bins[side[rows]], int((above[side, 0] > 0).sum()))
        for side in (~is_recent, is_recent)
    )
    return Table(
        units=assigned.units,
        cuts=cuts,
        above=above[:, 1:],
        tokens=above[:, 0],
        statistics=(reference or old, new),
        is_reference_known=reference is None,
    )


def _scores(
    requests: Sequence[RecordedRequest], feature: str, phase: Phase
) -> npt.NDArray[np.float32]:
    """That were observed, of all requests of a unit."""
    parts = [np.zeros(0, np.float32)]
    for request in requests:
        if feature in request.columns:
            column = request.scores[:, request.columns.index(feature)][request.phases == phase]
            parts.append(column[~np.isnan(column)])
    return np.concatenate(parts)


def _cuts(bins: Bins, reference: FeatureStatistics | None, wanted: Bins) -> Bins:
    """At quantiles of all scores but 0, and where they are wanted."""
    active = bins[bins != 0]
    if reference is not None:
        known = {number: count for number, count in reference.counts.items() if number}
        # As many as of the other side, so that both have a say in where the cuts are.
        scale = min(1.0, 10_000 / max(1, sum(known.values())))
        repeats = [max(1, round(count * scale)) for count in known.values()]
        active = np.concatenate([active, np.repeat(np.array(list(known), np.int64), repeats)])
    quantiles: Bins = np.zeros(0, np.int64)
    if len(active):
        ranks = np.linspace(0, len(active) - 1, NUM_CUTS).astype(int)
        quantiles = np.sort(active)[ranks]
    return np.unique(np.concatenate([[1], quantiles, wanted]))
