"""From the scores of a window to one number: the formulas of docs/rules.md.

Each takes many windows at once, [windows, tokens] with the newest token first, padded with NaN to
the longest. A NaN score was not observed: it takes its place and is otherwise skipped, never a
zero. Where nothing was observed the number is NaN.

Scores are float32, sums are taken in float64. An aggregate is right to 1e-9 of the sizes summed and
exact where the sums are, as for scores that are multiples of 1/64; max, count and min_evidence are
exact always. The caller masks infinities. How a stream was cut into calls can show in the last
digit of an `ema` only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from saeguard.rules.model import Aggregate, Aggregation

Scores = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


class Parameters:
    """Of many aggregates, one in each entry; see `model.Aggregate`."""

    def __init__(self, aggregates: Sequence[Aggregate]) -> None:
        self.tokens = np.array([each.tokens for each in aggregates], np.int64)
        self.rolling = np.array([each.rolling for each in aggregates], np.int64)
        self.k = np.array([each.k for each in aggregates], np.int64)
        self.over = np.array([each.over for each in aggregates])
        self.zero = np.array([each.zero for each in aggregates])
        self.rise = np.array([each.one - each.zero for each in aggregates])
        self.is_count = np.array([each.kind == "count" for each in aggregates], np.bool_)
        self.is_mean = np.array([each.kind in ("mean", "topk_mean") for each in aggregates])


@dataclass(frozen=True, slots=True)
class Windows:
    """What the formulas are applied to: scores that end with some token, and whose they are."""

    scores: Scores
    """[windows, tokens], newest first; NaN where not observed or before the run."""
    lengths: Indices
    """[windows], how many tokens of each are in the run."""
    parameters: Parameters
    aggregates: Indices
    """[windows], which entry of the parameters belongs to each."""
    num_observed: Indices
    """[windows]"""
    filled: Scores
    """The scores with 0 for NaN."""

    @classmethod
    def of(
        cls, scores: Scores, lengths: Indices, parameters: Parameters, aggregates: Indices
    ) -> Windows:
        missing = np.isnan(scores)
        num_observed = scores.shape[1] - missing.sum(axis=1)
        filled = np.where(missing, np.float32(0), scores)
        return cls(scores, lengths, parameters, aggregates, num_observed, filled)


Formula = Callable[[Windows, slice], Numbers]
"""Of some of the windows. `rolling_mean_max` takes one length of `rolling` at a time."""


def span(aggregate: Aggregate) -> int:
    """Tokens that it looks at; an average has no window, and keeps what it needs elsewhere."""
    if aggregate.kind == "ema":
        return 1
    return aggregate.tokens + aggregate.rolling - 1


def _sums(windows: Windows, of: slice) -> Numbers:
    """value, sum, mean, count"""
    parameters, aggregates = windows.parameters, windows.aggregates[of]
    terms: npt.NDArray[np.generic] = windows.filled[of]
    is_count = parameters.is_count[aggregates]
    if is_count.any():
        is_over = windows.scores[of] > parameters.over[aggregates, None]
        terms = np.where(is_count[:, None], is_over, terms)
    n = windows.num_observed[of]
    sums: Numbers = terms.sum(axis=1, dtype=np.float64)
    sums /= np.where(parameters.is_mean[aggregates], n, n > 0)  # 0 / 0 is NaN
    return sums


def _ranks(windows: Windows, of: slice) -> Numbers:
    """max, min_evidence, topk_mean"""
    parameters, aggregates = windows.parameters, windows.aggregates[of]
    k = parameters.k[aggregates]
    down = -windows.scores[of]
    down.sort(axis=1)  # what was not observed comes last, as NaN does
    last = np.arange(len(k)), np.minimum(k, down.shape[1]) - 1
    values = down[last].astype(np.float64)
    is_mean = parameters.is_mean[aggregates]
    if is_mean.any():
        totals = down.cumsum(axis=1, dtype=np.float64)
        np.divide(totals[last], k, out=values, where=is_mean)
    return np.where(windows.num_observed[of] >= k, -values, np.nan)


def _noisy_or(windows: Windows, of: slice) -> Numbers:
    zero = windows.parameters.zero[windows.aggregates[of], None]
    rise = windows.parameters.rise[windows.aggregates[of], None]
    absent = 1.0 - np.minimum(np.fmax((windows.scores[of] - zero) / rise, 0.0), 1.0)  # of NaN, 1
    value: Numbers = 1.0 - absent.prod(axis=1)
    value /= windows.num_observed[of] > 0
    return value


def _rolling_mean_max(windows: Windows, of: slice) -> Numbers:
    """The mean over `rolling` tokens from each on, where they are in the run; then the largest."""
    rolling = int(windows.parameters.rolling[windows.aggregates[of.start]])
    scores, lengths = windows.scores[of], windows.lengths[of]
    num_observed: int | Numbers = rolling
    if (windows.num_observed[of] < lengths).any():
        is_inside = np.arange(scores.shape[1]) < lengths[:, None]
        num_observed = _rolling_sums(~np.isnan(scores), rolling)
        scores = np.where(is_inside, windows.filled[of], scores)
    means = _rolling_sums(scores, rolling) / num_observed  # NaN before the run, and of nothing
    largest: Numbers = np.fmax.reduce(means, axis=1, initial=np.nan)
    return largest


def _rolling_sums(x: npt.NDArray[np.generic], rolling: int) -> Numbers:
    totals = np.zeros((x.shape[0], x.shape[1] + 1))
    np.cumsum(x, axis=1, dtype=np.float64, out=totals[:, 1:])
    sums: Numbers = totals[:, rolling:] - totals[:, : max(0, totals.shape[1] - rolling)]
    return sums


FORMULAS: Mapping[Aggregation, Formula] = {
    "value": _sums,
    "sum": _sums,
    "mean": _sums,
    "count": _sums,
    "max": _ranks,
    "min_evidence": _ranks,
    "topk_mean": _ranks,
    "noisy_or": _noisy_or,
    "rolling_mean_max": _rolling_mean_max,
}
"""All aggregates but `ema`. Kinds that have much in common are computed together."""
