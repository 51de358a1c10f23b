"""The sample of the watched features' scores that becomes histograms."""

from __future__ import annotations

import json

import numpy as np
import pytest

from saeguard.monitor.activations import BOUNDS, EVERY, MAX_FEATURES, Activations
from saeguard.monitor.columns import order_of
from saeguard.monitor.histograms import Distribution


def sampled(*rows: list[float]) -> np.ndarray:
    """Scores of which just these rows are looked at."""
    scores = np.full((EVERY * len(rows), len(rows[0])), 1e9, np.float32)
    scores[::EVERY] = rows
    return scores


def shares(values: Distribution) -> dict[float, int]:
    """Bound -> count, of the buckets that hold something."""
    bounds = [*values.bounds, float("inf")]
    return {b: n for b, n in zip(bounds, values.counts, strict=True) if n}


def test_every_feature_counts_for_itself_in_buckets_that_include_their_bounds():
    activations = Activations(["a", "b"])
    activations.add(sampled([0.0, 1.0], [0.1, 1.5], [256.0, 2.0], [257.0, 0.0]))
    values = activations.read()
    assert shares(values["a"]) == {0.0: 1, 0.125: 1, 256.0: 1, float("inf"): 1}
    assert shares(values["b"]) == {0.0: 1, 1.0: 1, 2.0: 2}
    assert values["b"].sum == pytest.approx(4.5)


def test_scores_below_zero_count_as_zero_and_rows_without_a_number_not_at_all():
    activations = Activations(["a"])
    activations.add(sampled([-3.0], [-0.0], [float("nan")], [4.0]))
    values = activations.read()["a"]
    assert shares(values) == {0.0: 2, 4.0: 1}
    assert values.sum == 4.0


@pytest.mark.parametrize("size", [1, 7, EVERY, 1000])
def test_the_same_rows_are_looked_at_however_they_come(size: int):
    scores = np.random.default_rng(0).exponential(5, (5000, 3)).astype(np.float32)
    activations = Activations(["a", "b", "c"])
    for begin in range(0, len(scores), size):
        activations.add(scores[begin : begin + size])
    values = activations.read()
    for column, name in enumerate("abc"):
        looked_at = scores[::EVERY, column]
        expected = np.bincount(np.searchsorted(BOUNDS, looked_at), minlength=len(BOUNDS) + 1)
        assert list(values[name].counts) == expected.tolist()
        assert values[name].sum == pytest.approx(looked_at.sum())


def test_there_is_a_series_for_each_feature_before_anything_is_seen():
    values = Activations(["a", "b"]).read()
    assert [each.count for each in values.values()] == [0, 0]


def test_features_beyond_the_bound_are_left_out_and_named(capsys: pytest.CaptureFixture[str]):
    names = [f"f{i}" for i in range(MAX_FEATURES + 2)]
    activations = Activations(names)
    activations.add(np.ones((EVERY, len(names)), np.float32))
    assert list(activations.read()) == names[:MAX_FEATURES]
    told = json.loads(capsys.readouterr().err)
    assert told["event"] == "features_without_histogram"
    assert told["features"] == names[MAX_FEATURES:]


def test_features_that_stay_under_other_rules_keep_their_counts_in_their_new_columns():
    activations = Activations(["a", "b"])
    activations.add(sampled([1.0, 2.0]))
    activations.adopt(["b", "new"], order_of(["b", "new"], ["a", "b"]))
    values = activations.read()
    assert {name: shares(each) for name, each in values.items()} == {"b": {2.0: 1}, "new": {}}
    activations.add(np.full((EVERY, 2), 8.0, np.float32))
    values = activations.read()
    assert shares(values["b"]) == {2.0: 1, 8.0: 1}
    assert shares(values["new"]) == {8.0: 1}


def test_a_feature_that_moves_up_from_beyond_the_bound_begins_at_zero():
    names = [f"f{i}" for i in range(MAX_FEATURES + 1)]
    activations = Activations(names)
    activations.add(np.ones((EVERY, len(names)), np.float32))
    activations.adopt(names[1:], order_of(names[1:], names))
    counts = [each.count for each in activations.read().values()]
    assert counts == [1] * (MAX_FEATURES - 1) + [0]
