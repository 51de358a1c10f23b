"""AUROC and recall are what their definitions say, ties and weights included."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from saeguard.rules.calibration.ranking import Ranking, auroc


def some(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores with ties, and labels."""
    rng = np.random.default_rng(seed)
    labels = rng.random(300) < 0.4
    return np.round(rng.normal(size=300) + labels, 1), labels


@pytest.mark.parametrize("seed", range(5))
def test_auroc_is_exactly_the_share_of_pairs_in_order_with_ties_by_half(seed: int):
    scores, labels = some(seed)
    pairs = scores[labels][:, None] - scores[~labels]
    in_order = Fraction(int((pairs > 0).sum())) + Fraction(int((pairs == 0).sum()), 2)
    assert auroc(scores, labels) == float(in_order / pairs.size)
    assert auroc(np.zeros(300), labels) == 0.5


def test_a_weight_is_how_often_a_request_counts():
    scores, labels = some(0)
    weight = np.where(labels, 2.0, 1.0)
    doubled = Ranking.of(np.append(scores, scores[labels]), np.append(labels, labels[labels]))
    once = np.ones(300 + labels.sum())
    assert Ranking.of(scores, labels).auroc(weight) == doubled.auroc(once)
    assert Ranking.of(scores, labels).recall(weight, 0.05) == doubled.recall(once, 0.05)


@pytest.mark.parametrize("max_false", [0.0, 0.01, 0.05, 1.0])
def test_recall_is_that_of_the_best_threshold_within_the_false_alarms(max_false: float):
    scores, labels = some(2)
    expected = max(
        (scores[labels] >= threshold).mean()
        for threshold in [*scores, np.inf]
        if (scores[~labels] >= threshold).mean() <= max_false
    )
    assert Ranking.of(scores, labels).recall(np.ones(300), max_false) == expected


def test_where_a_side_is_missing_there_is_no_figure():
    for labels in (np.ones(3, np.bool_), np.zeros(3, np.bool_)):
        assert np.isnan(auroc(np.arange(3.0), labels))
    assert np.isnan(auroc(np.zeros(0), np.zeros(0, np.bool_)))
    assert np.isnan(Ranking.of(np.arange(3.0), np.zeros(3, np.bool_)).recall(np.ones(3), 0.5))
