"""Logistic regression on a handful of columns, by Newton's method."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]

_PENALTY = 1e-3
"""Half of it times the squared weights is added to the mean loss, the intercept's left out."""
_MAX_STEPS = 30
_CLOSE_ENOUGH = 1e-6


def fit_logistic(
    x: npt.NDArray[np.floating], y: npt.NDArray[np.bool_], weight: Doubles, start: Doubles
) -> Doubles:
    """The weight of each column, then the intercept, [columns + 1].

    Args:
        x: [rows, columns], each column in units of about its standard deviation.
        weight: of each row, together 1.
        start: where to begin, [columns + 1].
    """
    columns = np.column_stack([x, np.ones(len(x))]).astype(np.float64)
    penalty = np.full(columns.shape[1], _PENALTY)
    penalty[-1] = 1e-9
    beta = start.astype(np.float64)
    loss = _loss(columns, y, weight, penalty, beta)
    for _ in range(_MAX_STEPS):
        p = chances(columns @ beta)
        slope = columns.T @ (weight * (p - y)) + penalty * beta
        curve = (columns * (weight * p * (1 - p))[:, None]).T @ columns + np.diag(penalty)
        step = np.linalg.solve(curve, slope)
        size = 1.0
        while (
            now := _loss(columns, y, weight, penalty, beta - size * step)
        ) > loss and size > 1e-3:
            size /= 2
        beta -= size * step
        if loss - now < _CLOSE_ENOUGH:
            break
        loss = now
    return beta


def chances(logits: Doubles) -> Doubles:
    """[rows]"""
    found: Doubles = 0.5 * (1 + np.tanh(logits / 2))
    return found


def _loss(
    columns: Doubles, y: npt.NDArray[np.bool_], weight: Doubles, penalty: Doubles, beta: Doubles
) -> float:
    logits = columns @ beta
    return float(weight @ (np.logaddexp(0, logits) - y * logits) + penalty @ beta**2 / 2)
