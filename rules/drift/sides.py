"""What each side is like: its statistics, and shares of its tokens with intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from saeguard.rules.calibration.statistics import bin_numbers
from saeguard.rules.drift.resampling import Weights
from saeguard.rules.drift.results import Share, Side
from saeguard.rules.drift.tables import Numbers, Table

_NUM_PARTS = 10


def sides_of(table: Table, thresholds: Sequence[float], again: Weights) -> tuple[Side, Side]:
    """The reference and what is recent.

    Args:
        again: units of both sides as a bootstrap has drawn them.
    """
    strata = table.strata_weights
    shares = table.observed_shares()
    drawn: list[Numbers | None] = [table.shares(weights, strata) for weights in again]
    if not table.is_reference_known:
        drawn[0] = None
    old, new = (
        Side(
            statistics=statistics,
            density=_share(table, 1, of_side, samples),
            above={
                score: _share(table, int(bin_numbers(np.array(score))), of_side, samples)
                for score in thresholds
            },
        )
        for statistics, of_side, samples in zip(table.statistics, shares, drawn, strict=True)
    )
    return old, new


def _share(table: Table, cut: int, shares: Numbers, samples: Numbers | None) -> Share:
    i = int(np.searchsorted(table.cuts, cut))
    if samples is None:
        return Share(float(shares[i]), None, None)
    low, high = np.quantile(samples[:, i], [0.025, 0.975])
    return Share(float(shares[i]), float(low), float(high))


def stability_index(table: Table) -> float:
    """sum (q - p) ln(q / p) over parts of the scores: 0 and below, and ten of the others. A part in
    which one side has nothing counts as half a token there.
    """
    picked = np.unique(np.linspace(0, len(table.cuts) - 1, _NUM_PARTS).astype(int))
    parts = []
    for shares, statistics in zip(table.observed_shares(), table.statistics, strict=True):
        tails = np.concatenate([[1.0], shares[picked], [0.0]])
        counts = np.maximum(-np.diff(tails), 0.0) * statistics.num_tokens + 0.5
        parts.append(counts / counts.sum())
    p, q = parts
    return float(np.sum((q - p) * np.log(q / p)))
