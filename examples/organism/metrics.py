"""Scores of detectors: AUROC with intervals, thresholds, rates."""

import numpy as np


def auroc(positive: np.ndarray, negative: np.ndarray) -> float:
    """Return the chance that a positive scores above a negative, ties counted half."""
    if not len(positive) or not len(negative):
        return float("nan")
    ordered = np.sort(negative)
    below = np.searchsorted(ordered, positive, "left")
    not_above = np.searchsorted(ordered, positive, "right")
    return float((below + not_above).mean() / 2 / len(negative))


def interval(positive: np.ndarray, negative: np.ndarray, num: int = 300) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the AUROC, both classes resampled."""
    rng = np.random.default_rng(0)
    values = [
        auroc(rng.choice(positive, len(positive)), rng.choice(negative, len(negative)))
        for _ in range(num)
    ]
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)


def threshold_at(negative: np.ndarray, rate: float) -> float:
    """Return the lowest threshold that at most `rate` of the negatives pass (score > it)."""
    return float(np.quantile(negative, 1 - rate, method="higher"))


def rate_above(scores: np.ndarray, threshold: float) -> float:
    """Return the share of scores above the threshold."""
    return float((scores > threshold).mean()) if len(scores) else float("nan")
