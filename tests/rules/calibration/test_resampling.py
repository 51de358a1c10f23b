"""Intervals of requests that are alike in groups hold what they promise."""

from __future__ import annotations

import numpy as np
import pytest

from saeguard.rules.calibration.intervals import wilson
from saeguard.rules.calibration.resampling import auroc_with_interval, rates_of


def test_without_groups_it_is_wilsons_interval():
    hits = np.array([[True] * 3 + [False] * 7])
    (rate,) = rates_of(hits, [str(i) for i in range(10)])
    assert rate == wilson(3, 10)


def test_the_interval_holds_the_true_rate_of_grouped_requests_as_often_as_it_says():
    rng = np.random.default_rng(1)
    groups = [str(i // 10) for i in range(400)]
    held = {"groups": 0, "wilson": 0}
    for _ in range(100):
        hits = np.repeat(rng.random(40) < 0.3, 10)
        (rate,) = rates_of(hits[None], groups)
        held["groups"] += rate.low <= 0.3 <= rate.high
        plain = wilson(int(hits.sum()), 400)
        held["wilson"] += plain.low <= 0.3 <= plain.high
    assert held["groups"] >= 88
    assert held["wilson"] < 70


def test_where_all_groups_say_the_same_groups_are_counted():
    groups = [str(i // 50) for i in range(500)]
    (none,) = rates_of(np.zeros((1, 500), np.bool_), groups)
    assert (none.count, none.total, none.low) == (0, 500, 0.0)
    assert none.high == wilson(0, 10).high


def test_it_is_never_narrower_than_wilsons():
    hits = np.array([[i % 2 == 0 for i in range(100)]])  # every group has the same share
    (rate,) = rates_of(hits, [str(i // 2) for i in range(100)])
    assert (rate.low, rate.high) == (wilson(50, 100).low, wilson(50, 100).high)


def test_nothing_says_nothing():
    (rate,) = rates_of(np.zeros((1, 0), np.bool_), [])
    assert (rate.share, rate.low, rate.high) == (None, 0.0, 1.0)


def test_the_area_is_that_of_all_pairs():
    rng = np.random.default_rng(2)
    levels, positive = rng.integers(0, 9, 80), rng.random(80) < 0.4
    first, later = levels[positive][:, None], levels[~positive][None]
    pairs = (first < later) + 0.5 * (first == later)
    area, low, high = auroc_with_interval(levels, positive, [str(i) for i in range(80)])
    assert area == pytest.approx(pairs.mean())
    assert low < area < high


def test_the_area_of_what_is_told_apart_still_has_an_interval_and_of_one_class_there_is_none():
    levels, positive = np.array([0] * 20 + [1] * 30), np.array([True] * 20 + [False] * 30)
    names = [str(i) for i in range(50)]
    area, low, high = auroc_with_interval(levels, positive, names)
    assert (area, high) == (1.0, 1.0)
    assert low == wilson(20, 20).low
    assert auroc_with_interval(levels, np.ones(50, np.bool_), names) is None
