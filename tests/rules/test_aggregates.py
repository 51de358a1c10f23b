"""Corners of the aggregates that random streams do not reach."""

import numpy as np
import pytest

from saeguard.rules.engine import kernels
from saeguard.rules.engine.blocks import Block
from saeguard.rules.model import Aggregate

pytestmark = pytest.mark.usefixtures("kernels")


def block_of(scores):
    """A stream of one feature in one block."""
    zero = np.array([0])
    stream = np.array(scores, np.float32)[:, None]
    return Block.of(zero, zero, zero, np.array([len(scores)]), stream, np.arange(len(scores)))


def compute(aggregate, scores):
    """One aggregate over the first one, two, ... scores of a stream."""
    windowed = kernels.in_use.windowed([aggregate], np.array([0]), 1)
    windowed.history.grow(1)
    block, rows = block_of(scores), np.arange(len(scores))
    with np.errstate(all="ignore"):
        return windowed.values(block, np.zeros_like(rows), rows).tolist()


def averages(half_life, scores):
    """The average at every token of one block."""
    bank = kernels.in_use.averages([0], [half_life], 1)
    bank.grow(1)
    bank.reset(np.array([0]))
    return bank.observe(block_of(scores), bool(np.isnan(scores).any()))[0].tolist()


@pytest.mark.parametrize("over", [0.1, 0.3, 1e-300, -1e-300])
def test_count_compares_scores_with_the_exact_threshold(over):
    """`over` lies between two float32 numbers: just the one above it counts."""
    near = np.float32(over)
    scores = [float(np.nextafter(near, np.float32(way))) for way in (-np.inf, near, np.inf)]
    expected = [float(score > over) for score in scores]
    assert compute(Aggregate(("a",), "count", tokens=1, over=over), scores) == expected


def test_nothing_finite_is_over_a_threshold_beyond_float32():
    scores = [float(np.finfo(np.float32).max), np.inf]
    assert compute(Aggregate(("a",), "count", tokens=1, over=1e300), scores) == [0.0, 1.0]


@pytest.mark.parametrize(
    "kind",
    [
        "value",
        "max",
        "mean",
        "sum",
        "count",
        "rolling_mean_max",
        "topk_mean",
        "min_evidence",
        "noisy_or",
    ],
)
def test_nothing_observed_is_not_a_number(kind):
    aggregate = Aggregate(("a",), kind, tokens=1 if kind == "value" else 3)
    assert np.isnan(compute(aggregate, [np.nan, np.nan])).all()


@pytest.mark.parametrize("half_life", [1, 8, 999])
def test_an_average_halves_its_distance_in_one_half_life(half_life):
    values = averages(half_life, [8.0] * (2 * half_life))
    assert values[half_life - 1] == pytest.approx(4.0)
    assert values[2 * half_life - 1] == pytest.approx(6.0)


def test_an_average_begins_with_the_first_observed_score():
    assert np.isnan(averages(4, [np.nan, np.nan])).all()
    assert averages(1, [np.nan, 4.0, np.nan])[1:] == [2.0, 2.0]


@pytest.mark.parametrize("half_life", [1, 3, 100])
def test_a_long_block_rounds_like_token_by_token(half_life):
    """Scores from huge to tiny: no term may drown in the scaling of another."""
    scores = np.random.default_rng(0).normal(size=500) * 10.0 ** np.linspace(20, -20, 500)
    weight, average, expected = 1 - 0.5 ** (1 / half_life), 0.0, []
    for x in scores.astype(np.float32).tolist():
        average += weight * (x - average)
        expected.append(average)
    sizes = averages(half_life, np.abs(scores))
    error = np.abs(np.array(averages(half_life, scores)) - expected)
    assert (error <= 1e-9 * np.array(sizes)).all()
