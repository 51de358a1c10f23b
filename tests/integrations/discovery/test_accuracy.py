"""Figures of detection, against their definitions."""

from __future__ import annotations

import numpy as np

from saeguard.integrations.discovery.accuracy import accuracy, threshold_for
from saeguard.integrations.discovery.contrast import Chance, shuffled_labels
from saeguard.rules.drift.discoveries import q_values


def some(num: int, seed: int, shift: float = 0.7) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.random(num) < 0.4
    return np.round(rng.normal(shift * labels, 1.0), 1), labels  # with ties


def test_recall_is_that_of_the_best_threshold_within_the_false_alarms():
    scores, labels = some(300, seed=2)
    expected = max(
        (scores[labels] >= t).mean()
        for t in [*scores, np.inf]
        if (scores[~labels] >= t).mean() <= 0.05
    )
    found = accuracy(scores, labels, [str(i) for i in range(300)], max_false=0.05)
    assert found.recall.value == expected
    assert found.recall.low <= expected <= found.recall.high


def test_a_group_counts_as_one_thing_in_intervals():
    scores, labels = some(60, seed=3)
    alone = accuracy(scores, labels, [str(i) for i in range(60)]).auroc
    copied = accuracy(
        np.repeat(scores, 25), np.repeat(labels, 25), [str(i // 25) for i in range(1500)]
    ).auroc
    forgotten = accuracy(
        np.repeat(scores, 25), np.repeat(labels, 25), [str(i) for i in range(1500)]
    ).auroc
    assert copied.value == alone.value
    assert abs((copied.high - copied.low) - (alone.high - alone.low)) < 0.02
    assert forgotten.high - forgotten.low < 0.4 * (alone.high - alone.low)


def test_a_threshold_keeps_its_false_alarms_and_wastes_none():
    for seed in range(20):
        scores, labels = some(200, seed)
        num_negatives = int((~labels).sum())
        for max_false in (0.0, 0.01, 0.1):
            threshold = threshold_for(scores, labels, max_false)
            num_false = int((scores[~labels] >= threshold).sum())
            assert num_false <= max_false * num_negatives
            lower = scores[scores < threshold].max()
            assert (scores[~labels] >= lower).sum() > max_false * num_negatives
    assert threshold_for(np.array([1.0, 2.0]), np.array([True, False]), 0.0) > 2.0
    assert threshold_for(np.array([0.0, 0.0]), np.array([True, False]), 0.0) > 0.0


def test_labels_are_dealt_to_groups_and_within_groups_and_never_across_sources():
    groups = ["pure+"] * 3 + ["pure-"] * 2 + ["mixed"] * 4 + ["other"] * 2
    strata = ["a"] * 9 + ["b"] * 2
    labels = np.array([True] * 3 + [False] * 2 + [True, False, False, False] + [False] * 2)
    dealt = shuffled_labels(labels, groups, strata, 200)
    assert (dealt[:3] == dealt[0]).all()
    assert (dealt[3:5] == dealt[3]).all()
    assert (dealt[0] != dealt[3]).all()
    assert 0.3 < dealt[0].mean() < 0.7
    assert (dealt[5:9].sum(axis=0) == 1).all()
    assert (dealt[5:9].mean(axis=1) > 0.1).all()
    assert not dealt[9:].any()


def test_of_noise_no_more_is_called_different_than_was_asked_for():
    rng = np.random.default_rng(0)
    num_called = []
    for _ in range(40):
        chance = Chance()
        chance.add(rng.normal(size=(300, 100)))
        found = rng.normal(size=300)
        found[:30] += 4.0
        q = q_values(chance.p_values(np.append(found, np.nan)))
        assert q[-1] == 1.0
        called = q[:300] <= 0.1
        assert called[:30].sum() > 20
        num_called.append(called[30:].sum() / called.sum())
    assert np.mean(num_called) < 0.12
