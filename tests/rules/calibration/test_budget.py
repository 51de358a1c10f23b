"""The threshold for a budget is the loosest that keeps it, and keeps it as surely as it says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from calibration_data import examples, load, request

from saeguard.rules.calibration.budget import Budget, calibrate
from saeguard.rules.calibration.intervals import upper_bound
from saeguard.rules.calibration.labels import Example, Label
from saeguard.rules.calibration.sweep import NEVER, Sweep, sweep


def swept(directory: Path, known: list[Example]) -> Sweep:
    ruleset = load(directory)
    return sweep(ruleset, ruleset.rules[0], ruleset.rules[0].signals[0], known)


@pytest.mark.parametrize(
    ("written", "rate", "per"),
    [("1/1000req", 1e-3, "req"), ("2/1Mtok", 2e-6, "tok"), ("0.5 / 1k req", 5e-4, "req")],
)
def test_a_budget_is_read(written: str, rate: float, per: str):
    budget = Budget.parse(written)
    assert (budget.rate, budget.per, budget.confidence) == (pytest.approx(rate), per, 0.95)


@pytest.mark.parametrize("written", ["1/1000", "1", "x/3req", "5/2req", "0/9req", "1/0req", ""])
def test_another_way_to_write_it_is_refused(written: str):
    with pytest.raises(ValueError, match=r"written like|no rate"):
        Budget.parse(written)


def test_a_confidence_that_is_none_is_refused():
    with pytest.raises(ValueError, match="a confidence is from"):
        Budget.parse("1/9req", 95)


def test_the_next_looser_threshold_would_break_the_budget(tmp_path: Path):
    known = examples(800)
    found = swept(tmp_path, known)
    result = calibrate(found, known, Budget.parse("5/100req"))
    chosen = result.chosen
    assert chosen is not None
    row = int(np.flatnonzero(found.thresholds == chosen.threshold)[0])
    negative = np.array([not example.answers for example in known])
    counts = found.matched[:, negative].sum(axis=1)
    assert chosen.false_alarms == counts[row]
    assert chosen.bound == upper_bound(int(counts[row]), 400, 0.95) <= 0.05
    assert upper_bound(int(counts[row + 1]), 400, 0.95) > 0.05
    assert chosen.recall.count == found.matched[row, ~negative].sum()
    assert (result.counted, result.num_negatives, result.num_positives) == ("requests", 400, 400)
    assert result.before.threshold == 3.0


def test_too_little_data_is_said_with_how_much_is_needed(tmp_path: Path):
    known = examples(100)
    result = calibrate(swept(tmp_path, known), known, Budget.parse("1/1000req"))
    assert result.chosen is None
    assert (result.has_enough, result.num_needed) == (False, 2995)


def test_requests_of_one_group_count_as_one(tmp_path: Path):
    known = [
        replace(example, label=Label(example.label.id, example.answers, group=f"g{i // 40}"))
        for i, example in enumerate(examples(400))
    ]
    result = calibrate(swept(tmp_path, known), known, Budget.parse("1/3req"))
    assert (result.counted, result.num_negatives) == ("groups", 10)
    assert result.chosen is not None
    assert result.chosen.false_alarms == 0, "one group of ten has a bound of 39 %"


def test_false_alarms_are_counted_by_token_where_the_budget_is(tmp_path: Path):
    known = examples(400)
    result = calibrate(swept(tmp_path, known), known, Budget.parse("2/1000tok"))
    assert (result.counted, result.num_negatives) == ("tokens", 200 * 24)
    assert result.chosen is not None
    assert result.chosen.bound <= 0.002


def test_the_true_rate_is_over_the_budget_as_rarely_as_is_promised(tmp_path: Path):
    """Scores of negatives are uniform, so the true rate at a threshold t is 1 - t."""
    ruleset = load(tmp_path)
    rule, budget = ruleset.rules[0], Budget.parse("5/100req", 0.9)
    thresholds = np.append(np.linspace(1, 0.5, 300), 3.0)[np.r_[300, :300]]
    rng = np.random.default_rng(0)
    blank = request("r", np.zeros(8))
    known = [Example(blank, Label(f"r{i}", False), False) for i in range(200)]
    broken = 0
    for _ in range(1000):
        peaks = rng.random(200)
        positions = np.where(peaks[None, :] >= thresholds[:, None], 5, NEVER)
        found = Sweep(rule, rule.signals[0], thresholds, positions)
        chosen = calibrate(found, known, budget).chosen
        broken += chosen is not None and 1 - chosen.threshold > budget.rate
    assert 0.03 < broken / 1000 < 0.1 + 3 * np.sqrt(0.1 * 0.9 / 1000)
