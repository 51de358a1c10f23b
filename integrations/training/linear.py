"""Probes that are one direction: logistic regression, and the difference of the classes' means."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from saeguard.integrations.probes.file import Linear, Probe
from saeguard.integrations.training.lesson import Lesson
from saeguard.integrations.training.material import Doubles
from saeguard.monitor.errors import UnsupportedError


def fit_logistic(lesson: Lesson, penalties: Sequence[float]) -> list[Probe]:
    """For each penalty the probe with the least mean log loss + penalty / 2 * |weight|^2.

    Give penalties in falling order: each fit begins where the one before ended.

    Raises:
        UnsupportedError: scikit-learn is not installed.
    """
    model = logistic_regression()
    probes = []
    for penalty in penalties:
        model.set_params(C=1.0 / penalty)
        model.fit(lesson.x, lesson.y, lesson.weight)
        weight, shift = lesson.on_raw(model.coef_[0].astype(np.float64))
        probes.append(_probe(weight, float(model.intercept_[0] + shift)))
    return probes


def fit_mean_difference(lesson: Lesson) -> Probe:
    """Along the line between the means of raw activations: negatives' scores -1, positives' 1."""
    negative, positive = (
        lesson.weight[lesson.y == side] @ lesson.x[lesson.y == side] / 0.5 for side in (False, True)
    )
    varies = np.isfinite(lesson.scale)
    difference = (positive - negative) * np.where(varies, lesson.scale, 0.0)
    weight = 2.0 * difference / max(float(difference @ difference), np.finfo(float).tiny)
    return _probe(weight, -float(weight @ lesson.mean))  # each class is half: between the means


def logistic_regression() -> Any:
    """
    Raises:
        UnsupportedError: scikit-learn is not installed.
    """
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise UnsupportedError(
            f"training needs scikit-learn: {error}", "pip install 'saeguard[training]'"
        ) from error
    return LogisticRegression(max_iter=500, warm_start=True)


def _probe(weight: Doubles, bias: float) -> Probe:
    return Probe(Linear(), {"weight": weight, "bias": np.array([bias])})
