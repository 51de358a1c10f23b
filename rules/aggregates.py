"""From the scores of a window to one number: the formulas of docs/rules.md.

Each takes many windows at once, [windows, tokens] with the newest token first, padded with NaN to
the longest. A NaN score was not observed: it takes its place and is otherwise skipped, never a
zero. Where nothing was observed the number is NaN.

Scores are float32, sums are taken in float64. An aggregate is right to 1e-9 of the sizes summed and
exact where the sums are, as for scores that are multiples of 1/64; max, count and min_evidence are
exact always. How a stream was cut into calls can show in the last digit of an `ema` only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from saeguard.rules.conditions import Bools
from saeguard.rules.model import Aggregate, Aggregation

Scores = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Parameters:
    """Of many aggregates, one in each entry; see `model.Aggregate`."""

    tokens: Indices
    rolling: Indices
    k: Indices
    over: Numbers
    zero: Numbers
    one: Numbers

    @classmethod
    def of(cls, aggregates: Sequence[Aggregate]) -> Parameters:
        dtypes = {"tokens": np.int64, "rolling": np.int64, "k": np.int64}
        return cls(
            *(
                np.array([getattr(a, f.name) for a in aggregates], dtypes.get(f.name, np.float64))
                for f in fields(cls)
            )
        )

    def take(self, chosen: Indices) -> Parameters:
        return Parameters(*(getattr(self, f.name)[chosen] for f in fields(self)))


def span(aggregate: Aggregate) -> int:
    """Tokens that it looks at; an average has no window, and keeps what it needs elsewhere."""
    if aggregate.kind == "ema":
        return 1
    return aggregate.tokens + aggregate.rolling - 1


def aggregate_windows(
    kind: Aggregation, windows: Scores, lengths: Indices, parameters: Parameters
) -> Numbers:
    """The aggregates of one kind, except `ema`, each over its own window.

    Args:
        kind: of all of them.
        windows: [windows, tokens], newest first; NaN where not observed or before the run.
        lengths: [windows], how many tokens of each window are in the run.
        parameters: of each window's aggregate.
    """
    return _FORMULAS[kind](windows, lengths, parameters)


def _value(windows: Scores, lengths: Indices, parameters: Parameters) -> Numbers:
    return windows[:, 0].astype(np.float64)


def _max(windows: Scores, lengths: Indices, parameters: Parameters) -> Numbers:
    return np.fmax.reduce(windows, axis=1).astype(np.float64)


def _sum(windows: Scores, lengths: Indices, parameters: Parameters) -> Numbers:
    total = np.nansum(windows, axis=1, dtype=np.float64)
    return np.where(_num_observed(windows) > 0, total, np.nan)


def _mean(windows: Scores, lengths: Indices, parameters: Parameters) -> Numbers:
    return _sum(windows, lengths, parameters) / _num_observed(windows)


def _count(windows: Scores, lengths: Indices, parameters: Parameters) -> Numbers:
    count = np.count_nonzero(windows > parameters.over[:, None], axis=1)
    return np.where(_num_observed(windows) > 0, count, np.nan)


def _min_evidence(windows: Scores, lengths: Indices, parameters: Parameters) -> Numbers:
    kth = _at(_largest_first(windows), parameters.k - 1)
    return np.where(_num_observed(windows) >= parameters.k, kth, np.nan)


def _topk_mean(windows: Scores, lengths: Indices, parameters: Parameters) -> Numbers:
    totals = _largest_first(windows).cumsum(axis=1, dtype=np.float64)
    mean = _at(totals, parameters.k - 1) / parameters.k
    return np.where(_num_observed(windows) >= parameters.k, mean, np.nan)


def _noisy_or(windows: Scores, lengths: Indices, parameters: Parameters) -> Numbers:
    zero, one = parameters.zero[:, None], parameters.one[:, None]
    absent = 1.0 - np.clip((windows - zero) / (one - zero), 0.0, 1.0)
    absent[np.isnan(windows)] = 1.0
    return np.where(_num_observed(windows) > 0, 1.0 - absent.prod(axis=1), np.nan)


def _rolling_mean_max(windows: Scores, lengths: Indices, parameters: Parameters) -> Numbers:
    """The mean over `rolling` tokens from each on, where they are in the run; then the largest."""
    observed = ~np.isnan(windows)
    totals = _before_each(np.where(observed, windows, np.float32(0.0)).astype(np.float64))
    counts = _before_each(observed)
    begin = np.arange(int(parameters.tokens.max()))
    end = begin + parameters.rolling[:, None]
    inside = end <= lengths[:, None]
    end = np.where(inside, end, 0)
    begin = np.minimum(begin, end)
    means = (_at(totals, end) - _at(totals, begin)) / (_at(counts, end) - _at(counts, begin))
    return np.fmax.reduce(means, axis=1)  # 0 / 0, where nothing was observed, is NaN


def _num_observed(windows: Scores) -> Indices:
    return np.count_nonzero(~np.isnan(windows), axis=1)


def _largest_first(windows: Scores) -> Scores:
    """Sorted, with -inf for what was not observed."""
    down = np.where(np.isnan(windows), np.float32(np.inf), -windows)
    down.sort(axis=1)
    return -down


def _before_each(x: npt.NDArray[np.generic]) -> Numbers:
    """Sums of what precedes each entry, and last the sum of all."""
    sums = np.zeros((x.shape[0], x.shape[1] + 1))
    np.cumsum(x, axis=1, out=sums[:, 1:])
    return sums


def _at(x: npt.NDArray[np.floating], index: Indices) -> Numbers:
    """The entry of each row at its own index, or at each of its own indices."""
    index = np.minimum(index, x.shape[1] - 1)
    if index.ndim == 1:
        return x[np.arange(len(x)), index].astype(np.float64)
    return np.take_along_axis(x, index, axis=1).astype(np.float64)


_Formula = Callable[[Scores, Indices, Parameters], Numbers]
_FORMULAS: Mapping[Aggregation, _Formula] = {
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

__all__ = ["Bools", "Indices", "Numbers", "Parameters", "Scores", "aggregate_windows", "span"]
