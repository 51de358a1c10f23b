"""Folds that never part a group."""

from __future__ import annotations

import numpy as np
import pytest

from saeguard.integrations.discovery.splits import group_folds
from saeguard.monitor.errors import ConfigError


def test_no_group_is_in_two_folds_and_folds_are_equally_large():
    rng = np.random.default_rng(1)
    groups = [f"g{i}" for i in rng.integers(0, 40, 1000)]
    folds = group_folds(groups, 5, seed=3)
    assert all(len(set(folds[np.array(groups) == group])) == 1 for group in set(groups))
    assert np.ptp(np.bincount(folds, minlength=5)) < 30


def test_folds_depend_on_the_seed_and_not_on_the_order_of_requests():
    groups = [f"g{i // 3}" for i in range(60)]
    folds = group_folds(groups, 4, seed=7)
    backwards = group_folds(groups[::-1], 4, seed=7)
    assert (backwards[::-1] == folds).all()
    assert (group_folds(groups, 4, seed=8) != folds).any()


def test_positives_are_spread_where_whole_groups_are_of_one_label():
    groups = [f"g{i // 5}" for i in range(200)]
    labels = [i // 5 < 8 for i in range(200)]  # 8 groups of 40 are positive
    for seed in range(5):
        folds = group_folds(groups, 4, seed, labels)
        assert np.bincount(folds[np.array(labels)], minlength=4).tolist() == [10, 10, 10, 10]
        assert np.bincount(folds, minlength=4).tolist() == [50, 50, 50, 50]


def test_fewer_groups_than_folds_are_refused():
    with pytest.raises(ConfigError, match="5 folds need as many groups, and the labels have 3"):
        group_folds(["a", "b", "c", "c"], 5)
