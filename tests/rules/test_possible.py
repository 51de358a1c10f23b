"""Which combinations of signals are called possible: no more and no less than scores can make."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from random import Random

import numpy as np
import pytest

from saeguard.rules import Feature, Location, ProbeFeature, RouterFeature, SaeFeature, Signal
from saeguard.rules.lints.possible import MAX_COMBINATIONS, holds, outcomes, truth_table
from saeguard.rules.model import Aggregate

HERE = Location(Path("rules.yaml"))
FEATURES = {
    "sae": Feature("sae", "", "raw", SaeFeature(Path("sae"), 1), location=HERE),
    "weight": Feature("weight", "", "weight", RouterFeature(3, 7), location=HERE),
    "logit": Feature("logit", "", "logit", RouterFeature(3, 7), location=HERE),
    "probe": Feature("probe", "", "raw", ProbeFeature(Path("probe"), "p"), location=HERE),
}
SCORES = {  # every kind of value that an aggregate can have, finely spaced
    Aggregate(("probe",), "mean", tokens=8): np.arange(-5, 5, 0.25),
    Aggregate(("sae",), "mean", tokens=8): np.arange(0, 5, 0.25),
    Aggregate(("logit",), "mean", tokens=8): np.arange(-5, 5, 0.25),
    Aggregate(("weight",), "mean", tokens=8): np.arange(0, 1.01, 0.125),
    Aggregate(("weight",), "sum", tokens=8): np.arange(0, 5, 0.25),
    Aggregate(("sae",), "count", tokens=3): np.arange(4),
    Aggregate(("sae",), "noisy_or", tokens=3): np.arange(0, 1.01, 0.125),
    Aggregate(("sae", "probe"), "value", "angle"): np.arange(-180, 181, 0.25),
    Aggregate(("probe", "sae"), "max", "l2", tokens=8): np.arange(0, 5, 0.25),
}


def random_signal(random, aggregate):
    """With thresholds among the values, between them and beyond them."""
    comparison = random.choice(["gt", "gte", "lt", "lte", "between"])
    low, high = random.randint(-4, 8) / 2, random.randint(-4, 8) / 2
    if aggregate.combine != "angle":
        low, high = min(low, high), max(low, high)
    return Signal("s", aggregate, comparison, low, high if comparison == "between" else None)


@pytest.mark.parametrize("aggregate", SCORES, ids=lambda aggregate: aggregate.source)
def test_combinations_of_one_aggregate_are_those_that_its_values_make(aggregate):
    random = Random(7)
    for _ in range(300):
        signals = [random_signal(random, aggregate) for _ in range(random.randint(1, 4))]
        expected = {tuple(holds(each, value) for each in signals) for value in SCORES[aggregate]}
        assert outcomes(signals, FEATURES) == expected


def test_signals_of_different_aggregates_are_free_of_each_other():
    signals = [Signal("s", Aggregate(("probe",), "mean", tokens=n), "gt", 1) for n in (1, 2, 3)]
    table = truth_table(signals, FEATURES, missing=False)
    assert set(map(tuple, table.T.tolist())) == set(product([False, True], repeat=3))


def test_where_an_aggregate_may_be_missing_all_its_signals_can_be_false():
    aggregate = Aggregate(("probe",), "mean", tokens=8)
    signals = [Signal("low", aggregate, "lt", 1), Signal("high", aggregate, "gte", 1)]
    observed = truth_table(signals, FEATURES, missing=False)
    assert set(map(tuple, observed.T.tolist())) == {(True, False), (False, True)}
    table = truth_table(signals, FEATURES, missing=True)
    assert set(map(tuple, table.T.tolist())) == {(True, False), (False, True), (False, False)}


def test_too_many_combinations_are_not_tried():
    signals = [Signal("s", Aggregate(("probe",), "mean", tokens=n), "gt", 1) for n in range(1, 14)]
    table = truth_table(signals[:12], FEATURES, missing=True)
    assert table.shape == (12, MAX_COMBINATIONS)
    assert truth_table(signals, FEATURES, missing=True) is None
