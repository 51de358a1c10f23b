"""Statistics of scores say what the scores themselves say, however they were added up."""

from __future__ import annotations

import json

import numpy as np
import pytest
from calibration_data import request

from saeguard.rules.calibration.statistics import (
    QUANTILES,
    FeatureStatistics,
    as_json,
    bin_numbers,
    bin_value,
    from_json,
    statistics_of,
)
from saeguard.rules.phases import Phase


def scores(num_tokens: int = 5000) -> np.ndarray:
    """A sparse feature, a probe of either sign, and one that was observed now and then."""
    rng = np.random.default_rng(1)
    sparse = np.where(rng.random(num_tokens) < 0.1, rng.exponential(3, num_tokens), 0)
    probe = rng.normal(-4, 3, num_tokens)
    seldom = np.where(rng.random(num_tokens) < 0.3, probe, np.nan)
    return np.stack([sparse, probe, seldom], axis=1).astype(np.float32)


def test_density_quantiles_and_shares_are_those_of_the_scores():
    values = scores()
    for column, found in zip(values.T, FeatureStatistics.of(values), strict=True):
        seen = column[~np.isnan(column)]
        assert found.num_tokens == len(seen)
        assert found.density == np.mean(seen > 0)
        wanted = np.quantile(seen, QUANTILES, method="inverted_cdf")
        assert list(found.quantiles.values()) == pytest.approx(wanted, rel=0.0101, abs=1e-6)
        low, high = np.mean(seen >= 2.0), np.mean(seen >= 2.0 / 1.02)
        assert low <= found.share_above(2.0) <= high


def test_a_bin_holds_what_is_within_one_percent_of_its_middle_and_bins_rise_with_scores():
    values = np.sort(scores()[:, 1])
    numbers = bin_numbers(values)
    assert (np.diff(numbers) >= 0).all()
    middles = np.array([bin_value(number) for number in numbers])
    assert middles == pytest.approx(values, rel=0.0101)
    assert bin_numbers(np.array([0.0, -0.0, 1e-9, np.float32(3e38)])).tolist()[:3] == [0, 0, 0]


def test_statistics_of_parts_add_up_to_those_of_the_whole():
    values = scores()
    parts = [FeatureStatistics.of(part) for part in np.array_split(values, 7)]
    for column, whole in enumerate(FeatureStatistics.of(values, num_groups=7)):
        assert FeatureStatistics.merged(part[column] for part in parts) == whole


def test_of_nothing_observed_there_is_nothing_to_say():
    (found,) = FeatureStatistics.of(np.full((4, 1), np.nan, np.float32))
    assert (found.num_tokens, found.num_groups, found.density, found.quantiles) == (0, 0, None, {})
    assert found.share_above(1.0) is None


def test_requests_are_told_apart_by_phase_and_counted_by_group():
    requests = [request(f"r{i}", np.full(12, float(i))) for i in range(4)]
    found = statistics_of(requests, groups=["a", "b", "a", "c"])
    assert set(found) == {"lie", "calm"}
    prompt, answer = found["lie"][Phase.PROMPT], found["lie"][Phase.ANSWER]
    assert (prompt.num_tokens, answer.num_tokens) == (16, 32)
    assert (prompt.num_groups, answer.num_groups) == (3, 3)
    assert answer.density == 0.75
    assert statistics_of(requests)["lie"][Phase.ANSWER].num_groups == 4


def test_they_come_back_from_json_as_they_were():
    found = statistics_of([request("r", scores()[:40, 1])])
    assert from_json(json.loads(json.dumps(as_json(found)))) == found


@pytest.mark.parametrize(
    "broken",
    [
        {"lie": 3},
        {"lie": {"answer": {"counts": {"1": 2}}}},
        {"lie": {"answer": {"counts": {"1": -2}, "num_groups": 0}}},
        {"lie": {"reply": {"counts": {"1": 2}, "num_groups": 1}}},
        {"lie": {"answer": {"counts": {"x": 2}, "num_groups": 1}}},
    ],
)
def test_what_is_not_statistics_is_refused(broken):
    with pytest.raises(ValueError, match=r"statistics|phase|literal"):
        from_json(broken)
