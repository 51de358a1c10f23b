"""From the scores of a phase run to one number per token, for many features and requests at once.

At token t of a run, over the observed scores x among the last `window` tokens (fewer at its start):

    value   x_t                          max    the largest x
    mean    sum of x / number of x       count  number of x > over
    ema     e_t = e_(t-1) + a (x_t - e_(t-1)),   a = 1 - 0.5 ** (1 / half_life),   e = 0 at first

A NaN score was not observed. It takes its place in windows and is otherwise skipped; it is never a
zero. Where nothing was observed at all the aggregate is NaN. Sums are float64, newest score first,
so a result does not depend on how a stream was cut into blocks. Infinities are the caller's to mask.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from saeguard.rules.model import Aggregate

Scores = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Group:
    """Aggregates of one kind and window, computed together."""

    kind: str
    window: int
    rows: Indices  # of the result
    columns: Indices  # of the scores
    over: Numbers  # [rows, 1, 1]


class AggregateBank:
    """A fixed list of aggregates over fixed columns of scores. Holds no state."""

    def __init__(self, aggregates: Sequence[Aggregate], column_of: Mapping[str, int]) -> None:
        emas = [row for row, each in enumerate(aggregates) if each.kind == "ema"]
        windows = sorted({(each.kind, each.tokens) for each in aggregates if each.kind != "ema"})
        columns = np.array([column_of[each.feature] for each in aggregates], np.int64)
        over = np.array([each.over or 0.0 for each in aggregates])[:, None, None]
        self.num_rows = len(aggregates)
        self.history = max((window for _, window in windows), default=1) - 1
        """Scores before a block that its windows reach."""
        self.ema_rows = np.array(emas, np.int64)
        self._ema_columns = columns[self.ema_rows]
        half_lives = np.array([float(aggregates[row].tokens) for row in emas])
        self._ema_weights = (1 - 0.5 ** (1 / half_lives))[:, None, None]
        self._groups = []
        for kind, window in windows:
            members = [(each.kind, each.tokens) == (kind, window) for each in aggregates]
            rows = np.flatnonzero(members)
            self._groups.append(_Group(kind, window, rows, columns[rows], over[rows]))

    def compute(self, scores: Scores, ema_before: Numbers) -> Numbers:
        """Every aggregate at every new token.

        Args:
            scores: [columns, history + tokens, slots]; NaN where unobserved or before the run.
            ema_before: [emas, slots], the averages after the last token before; NaN if none.

        Returns:
            [rows, tokens, slots]
        """
        num_tokens = scores.shape[1] - self.history
        values = np.empty((self.num_rows, num_tokens, scores.shape[2]))
        for group in self._groups:
            recent = scores[group.columns, self.history - group.window + 1 :]
            values[group.rows] = _windowed(group, recent)
        if self.ema_rows.size:
            new = scores[self._ema_columns, self.history :].astype(np.float64)
            values[self.ema_rows] = _ema(new, ema_before, self._ema_weights)
        return values


def _windowed(group: _Group, recent: Scores) -> Numbers:
    """One group: [columns, window - 1 + tokens, slots] to [columns, tokens, slots]."""
    if group.kind in ("value", "max"):
        return _fold(np.fmax, recent, group.window)
    observed = ~np.isnan(recent)
    if group.kind == "count":
        amounts = (recent > group.over).astype(np.float64)
    else:
        amounts = np.where(observed, recent, 0.0).astype(np.float64)
    total = _fold(np.add, amounts, group.window)
    num_observed = _fold(np.add, observed.astype(np.float64), group.window)
    if group.kind == "mean":
        return np.divide(
            total, num_observed, out=np.full_like(total, np.nan), where=num_observed > 0
        )
    return np.where(num_observed > 0, total, np.nan)


def _fold(operation: np.ufunc, recent: npt.NDArray[np.floating], window: int) -> Numbers:
    """`operation` over each window of axis 1, newest first."""
    end = recent.shape[1]
    result = recent[:, window - 1 :].astype(np.float64)
    for back in range(1, window):
        operation(result, recent[:, window - 1 - back : end - back], out=result)
    return result


def _ema(scores: Numbers, before: Numbers, weights: Numbers) -> Numbers:
    """[emas, tokens, slots]; token by token, so that rounding is the same however blocks are cut."""
    observed = ~np.isnan(scores)
    weights = np.where(observed, weights, 0.0)
    scores = np.where(observed, scores, 0.0)
    started = ~np.isnan(before)
    average = np.where(started, before, 0.0)
    averages = np.empty_like(scores)
    for token in range(scores.shape[1]):
        average = average + weights[:, token] * (scores[:, token] - average)
        averages[:, token] = average
    has_begun = np.logical_or.accumulate(observed, axis=1) | started[:, None]
    averages[~has_begun] = np.nan
    return averages
