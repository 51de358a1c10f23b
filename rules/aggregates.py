"""From the scores of a phase run to one number per token, for many features and requests at once.

At token t of a run, over the observed scores x among the last `window` tokens (fewer at its start):

    value   x_t                          max    the largest x
    mean    sum of x / number of x       count  number of x > over
    ema     e_t = e_(t-1) + a (x_t - e_(t-1)),   a = 1 - 0.5 ** (1 / half_life),   e = 0 at first

A NaN score was not observed. It takes its place in windows and is otherwise skipped; it is never a
zero. Where nothing was observed at all the aggregate is NaN. Sums are float64, newest score first,
so a result does not depend on how a stream was cut into blocks. The caller masks infinities.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from saeguard.rules.conditions import Bools
from saeguard.rules.model import Aggregate, Aggregation

Scores = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
Counts = npt.NDArray[np.unsignedinteger]


@dataclass(frozen=True, slots=True)
class _Group:
    """Aggregates of one kind and window, computed together."""

    kind: Aggregation
    window: int
    rows: Indices  # of the result
    columns: Indices  # of the scores
    over: Scores  # [rows, 1, 1]


class AggregateBank:
    """A fixed list of aggregates over fixed columns of scores. Holds no state."""

    def __init__(self, aggregates: Sequence[Aggregate], column_of: Mapping[str, int]) -> None:
        columns = np.array([column_of[each.features[0]] for each in aggregates], np.int64)
        windows = sorted({(each.kind, each.tokens) for each in aggregates if each.kind != "ema"})
        self.num_rows = len(aggregates)
        self.history = max((window for _, window in windows), default=1) - 1
        """Scores before a block that its windows reach."""
        self._groups = []
        for kind, window in windows:
            rows = _where([(each.kind, each.tokens) == (kind, window) for each in aggregates])
            over = np.array([_float32_below(aggregates[row].over) for row in rows])
            self._groups.append(_Group(kind, window, rows, columns[rows], over.reshape(-1, 1, 1)))
        self.ema_rows = _where([each.kind == "ema" for each in aggregates])
        self._ema_columns = columns[self.ema_rows]
        weights = [1 - 0.5 ** (1 / aggregates[row].tokens) for row in self.ema_rows]
        self._ema_weights = np.array(weights).reshape(-1, 1, 1)

    def compute(self, scores: Scores, observed: Bools, ema_before: Numbers) -> Numbers:
        """Every aggregate at every new token.

        Args:
            scores: [columns, history + tokens, slots]; NaN where unobserved or before the run.
            observed: where the scores are not NaN.
            ema_before: [emas, slots], the averages after the last token before; NaN if none.

        Returns:
            [rows, tokens, slots]
        """
        num_tokens = scores.shape[1] - self.history
        values = np.empty((self.num_rows, num_tokens, scores.shape[2]))
        filled = scores.copy()
        np.copyto(filled, np.float32(0.0), where=~observed)
        num_observed: dict[int, Counts] = {}
        for group in self._groups:
            reach = (group.columns, slice(self.history - group.window + 1, None))
            if group.kind in ("value", "max"):
                values[group.rows] = _fold(np.fmax, scores[reach], group.window, np.float32)
                continue
            if group.window not in num_observed:
                num_observed[group.window] = _count(observed[:, reach[1]], group.window)
            known = num_observed[group.window][group.columns]
            if group.kind == "count":
                count = _count(scores[reach] > group.over, group.window)
                values[group.rows] = np.where(known > 0, count, np.nan)
            else:
                total = _fold(np.add, filled[reach], group.window, np.float64)
                values[group.rows] = total / known  # 0 / 0, where nothing was observed, is NaN
        if self.ema_rows.size:
            new = (self._ema_columns, slice(self.history, None))
            values[self.ema_rows] = _ema(filled[new], observed[new], ema_before, self._ema_weights)
        return values


def _where(chosen: list[bool]) -> Indices:
    return np.flatnonzero(np.array(chosen))


def _float32_below(over: float) -> np.float32:
    """The largest float32 f <= over: for a float32 score, x > f exactly when x > over."""
    with np.errstate(over="ignore"):
        near = np.float32(over)
    return near if float(near) <= over else np.nextafter(near, np.float32(-np.inf))


def _count(flags: Bools, window: int) -> Counts:
    """How many flags of each window are set."""
    return _fold(np.add, flags.view(np.uint8), window, np.uint8 if window < 256 else np.uint16)


def _fold(
    operation: np.ufunc, recent: npt.NDArray[Any], window: int, dtype: type[np.generic]
) -> npt.NDArray[Any]:
    """`operation` over each window of axis 1, newest first."""
    end = recent.shape[1]
    result = recent[:, window - 1 :].astype(dtype)
    for back in range(1, window):
        operation(result, recent[:, window - 1 - back : end - back], out=result)
    return result


def _ema(filled: Scores, observed: Bools, before: Numbers, weights: Numbers) -> Numbers:
    """[emas, tokens, slots], token by token: rounding must not depend on how blocks are cut."""
    started = ~np.isnan(before)
    average = np.where(started, before, 0.0)
    # Token first: iterating over an array's first axis is the cheapest loop there is over one.
    new = filled.swapaxes(0, 1).astype(np.float64)
    weight = np.ascontiguousarray((observed * weights).swapaxes(0, 1))
    averages = np.empty_like(new)
    for x, a, after in zip(new, weight, averages, strict=True):
        np.subtract(x, average, out=after)
        np.multiply(after, a, out=after)
        np.add(after, average, out=after)
        average = after
    has_begun = np.logical_or.accumulate(observed, axis=1) | started[:, None]
    return np.where(has_begun, averages.swapaxes(0, 1), np.nan)
