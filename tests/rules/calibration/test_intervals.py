"""Intervals are those of SciPy, and bounds keep what they promise."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest, chi2

from saeguard.rules.calibration.intervals import (
    num_needed,
    poisson_upper_bound,
    upper_bound,
    wilson,
)

CASES = [(0, 1), (1, 1), (0, 50), (3, 50), (50, 50), (17, 400), (399, 400), (5, 100_000)]


@pytest.mark.parametrize(("count", "total"), CASES)
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_wilson_is_the_interval_of_scipy(count: int, total: int, confidence: float):
    found = wilson(count, total, confidence)
    expected = binomtest(count, total).proportion_ci(confidence, method="wilson")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert found.share == count / total


def test_of_nothing_everything_is_possible():
    found = wilson(0, 0)
    assert (found.share, found.low, found.high) == (None, 0.0, 1.0)


@pytest.mark.parametrize(("count", "total"), CASES)
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.999])
def test_the_upper_bound_is_that_of_clopper_and_pearson(count: int, total: int, confidence: float):
    expected = binomtest(count, total, alternative="less").proportion_ci(confidence).high
    assert upper_bound(count, total, confidence) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("count", [0, 1, 7, 300])
def test_the_bound_of_rare_events_is_that_of_garwood(count: int):
    expected = chi2.ppf(0.95, 2 * (count + 1)) / 2
    assert poisson_upper_bound(count, 0.95) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("rate", [0.001, 0.01, 0.2])
def test_with_one_less_than_is_needed_silence_is_not_enough(rate: float):
    needed = num_needed(rate, 0.95)
    assert upper_bound(0, needed, 0.95) <= rate < upper_bound(0, needed - 1, 0.95)


def test_the_upper_bound_is_too_low_as_rarely_as_it_says():
    rng = np.random.default_rng(0)
    counts = rng.binomial(300, 0.02, 4000)
    too_low = np.mean([upper_bound(int(count), 300, 0.9) < 0.02 for count in counts])
    assert too_low < 0.1 + 3 * np.sqrt(0.1 * 0.9 / 4000)
