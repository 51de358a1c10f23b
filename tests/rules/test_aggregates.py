"""Corners of the aggregates that random streams do not reach."""

import numpy as np
import pytest

from saeguard.rules.aggregates import AggregateBank
from saeguard.rules.model import Aggregate


def compute(aggregate, scores):
    """One aggregate over one stream: the number at every token."""
    bank = AggregateBank([aggregate], {"a": 0})
    before = np.full((1, bank.history, 1), np.nan, np.float32)
    stream = np.array(scores, np.float32)[None, :, None]
    joined = np.concatenate((before, stream), axis=1)
    emas = np.full((len(bank.ema_rows), 1), np.nan)
    with np.errstate(invalid="ignore"):
        return bank.compute(joined, ~np.isnan(joined), emas)[0, :, 0]


@pytest.mark.parametrize("over", [0.1, 0.3, 1e-300, -1e-300])
def test_count_compares_scores_with_the_exact_threshold(over):
    """`over` lies between two float32 numbers: just the one above it counts."""
    near = np.float32(over)
    scores = [float(np.nextafter(near, np.float32(way))) for way in (-np.inf, near, np.inf)]
    expected = [float(score > over) for score in scores]
    assert compute(Aggregate(("a",), "count", tokens=1, over=over), scores).tolist() == expected


def test_nothing_finite_is_over_a_threshold_beyond_float32():
    scores = [np.finfo(np.float32).max, np.inf]
    assert compute(Aggregate(("a",), "count", tokens=1, over=1e300), scores).tolist() == [0.0, 1.0]


def test_count_over_a_long_window_does_not_wrap_round():
    counts = compute(Aggregate(("a",), "count", tokens=300, over=0.0), [1.0] * 400)
    assert counts.tolist() == [*range(1, 300), *[300] * 101]


@pytest.mark.parametrize("kind", ["value", "max", "mean", "count", "ema"])
def test_nothing_observed_is_not_a_number(kind):
    aggregate = Aggregate(("a",), kind, tokens=1 if kind == "value" else 3, over=0.0)
    assert np.isnan(compute(aggregate, [np.nan, np.nan])).all()


def test_an_average_halves_its_distance_in_one_half_life():
    averages = compute(Aggregate(("a",), "ema", tokens=4), [8.0] * 8)
    assert averages[[3, 7]] == pytest.approx([4.0, 6.0])
