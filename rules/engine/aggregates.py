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
        self.one = np.array([each.one for each in aggregates])


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

    def take(self, chosen: slice, longest: int) -> Windows:
        """Some of them, none with a span longer than `longest`."""
        return Windows(
            self.scores[chosen, :longest],
            self.lengths[chosen],
            self.parameters,
            self.aggregates[chosen],
            self.num_observed[chosen],
            self.filled[chosen, :longest],
        )


def span(aggregate: Aggregate) -> int:
    """Tokens that it looks at; an average has no window, and keeps what it needs elsewhere."""
    if aggregate.kind == "ema":
        return 1
    return aggregate.tokens + aggregate.rolling - 1


def aggregate_windows(kind: Aggregation, windows: Windows) -> Numbers:
    """The aggregates of one kind, except `ema`, each over its own window."""
    values = _FORMULAS[kind](windows)
    values[windows.num_observed == 0] = np.nan
    return values


def _value(windows: Windows) -> Numbers:
    return windows.scores[:, 0].astype(np.float64)


def _max(windows: Windows) -> Numbers:
    largest: Scores = np.fmax.reduce(windows.scores, axis=1)
    return largest.astype(np.float64)


def _sum(windows: Windows) -> Numbers:
    total: Numbers = windows.filled.sum(axis=1, dtype=np.float64)
    return total


def _mean(windows: Windows) -> Numbers:
    mean: Numbers = _sum(windows) / windows.num_observed
    return mean


def _count(windows: Windows) -> Numbers:
    over = windows.parameters.over[windows.aggregates]
    count: Numbers = (windows.scores > over[:, None]).sum(axis=1, dtype=np.float64)
    return count


def _min_evidence(windows: Windows) -> Numbers:
    k = windows.parameters.k[windows.aggregates]
    kth = _at(_largest_first(windows.scores), k - 1)
    return np.where(windows.num_observed >= k, kth, np.nan)


def _topk_mean(windows: Windows) -> Numbers:
    k = windows.parameters.k[windows.aggregates]
    totals = _largest_first(windows.scores).cumsum(axis=1, dtype=np.float64)
    return np.where(windows.num_observed >= k, _at(totals, k - 1) / k, np.nan)


def _noisy_or(windows: Windows) -> Numbers:
    zero = windows.parameters.zero[windows.aggregates, None]
    one = windows.parameters.one[windows.aggregates, None]
    absent = 1.0 - np.minimum(np.maximum((windows.scores - zero) / (one - zero), 0.0), 1.0)
    np.copyto(absent, 1.0, where=np.isnan(absent))
    value: Numbers = 1.0 - absent.prod(axis=1)
    return value


def _rolling_mean_max(windows: Windows) -> Numbers:
    """The mean over `rolling` tokens from each on, where they are in the run; then the largest."""
    totals = _before_each(windows.filled)
    begin = np.arange(int(windows.parameters.tokens[windows.aggregates].max()))
    end = begin + windows.parameters.rolling[windows.aggregates, None]
    end[end > windows.lengths[:, None]] = 0
    begin = np.minimum(begin, end)
    num_observed = end - begin
    if (windows.num_observed < windows.lengths).any():
        counts = _before_each(~np.isnan(windows.scores))
        num_observed = _at(counts, end) - _at(counts, begin)
    means = (_at(totals, end) - _at(totals, begin)) / num_observed
    largest: Numbers = np.fmax.reduce(means, axis=1)  # 0 / 0, of nothing observed, is NaN
    return largest


def _largest_first(scores: Scores) -> Scores:
    """Sorted; what was not observed comes last, as NaN does."""
    down = -scores
    down.sort(axis=1)
    return np.negative(down, out=down)


def _before_each(x: npt.NDArray[np.generic]) -> Numbers:
    """Sums of what precedes each entry, and last the sum of all."""
    sums = np.zeros((x.shape[0], x.shape[1] + 1))
    np.cumsum(x, axis=1, out=sums[:, 1:])
    return sums


def _at(x: npt.NDArray[np.floating], index: Indices) -> Numbers:
    """The entry of each row at its own index, or at each of its own indices."""
    width = x.shape[1]
    begins = np.arange(0, x.size, width)
    cells = np.minimum(index, width - 1) + (begins if index.ndim == 1 else begins[:, None])
    found: Numbers = x.take(cells).astype(np.float64)
    return found


_FORMULAS: Mapping[Aggregation, Callable[[Windows], Numbers]] = {
    "value": _value,
    "max": _max,
    "sum": _sum,
    "mean": _mean,
    "count": _count,
    "min_evidence": _min_evidence,
    "topk_mean": _topk_mean,
    "noisy_or": _noisy_or,
    "rolling_mean_max": _rolling_mean_max,
}
