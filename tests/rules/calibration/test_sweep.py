"""A sweep says what the rule would do at each threshold, by running it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from calibration_data import RULES, examples, load

from saeguard.rules.calibration.backtest import backtest
from saeguard.rules.calibration.sweep import NEVER, CannotSweep, find_signal, sweep

NEGATED = RULES.replace("    condition: lie", "      calm: {feature: calm, agg: value, gt: 1}\n"
                        "    condition: lie and not calm")  # fmt: skip
SEQUENCE = RULES.replace(
    "    condition: lie",
    "      calm: {feature: calm, agg: value, gt: 1}\n"
    "    sequence: {within: 8 tokens, steps: [{when: lie}, {when: lie}], unless: {when: calm}}",
).replace("    scope: {phase: [answer]}\n", "")


def at_threshold(ruleset, threshold):
    rule = ruleset.rules[0]
    signal = replace(rule.signals[0], threshold=threshold)
    return replace(ruleset, rules=(replace(rule, signals=(signal, *rule.signals[1:])),))


def test_each_threshold_does_what_the_rule_does_with_it(tmp_path: Path):
    ruleset, known = load(tmp_path), examples(60)
    found = sweep(ruleset, ruleset.rules[0], ruleset.rules[0].signals[0], known)
    assert found.is_monotone
    for row in range(0, len(found.thresholds), 10):
        (alone,) = backtest(at_threshold(ruleset, float(found.thresholds[row])), known)
        ids = {e.label.id for e, hit in zip(known, found.matched[row], strict=True) if hit}
        expected = {e.label.id for e in known if e.answers} - set(alone.missed)
        assert ids == expected | set(alone.false_alarms)


def test_it_reaches_from_silence_to_the_loosest_that_matters_and_has_the_rules_own(tmp_path: Path):
    ruleset, known = load(tmp_path), examples(60)
    found = sweep(ruleset, ruleset.rules[0], ruleset.rules[0].signals[0], known)
    assert 3.0 in found.thresholds
    assert not found.matched[0].any()
    assert found.matched[-1].all()
    peaks = [example.request.scores[4:, 0].max() for example in known]
    between = found.thresholds[(found.thresholds > min(peaks)) & (found.thresholds < max(peaks))]
    assert len(between) > 100, "most thresholds are where they decide something"


@pytest.mark.parametrize("scale", [1e-9, 1e12, 1e34])
def test_scores_of_any_scale_are_swept_and_one_outlier_does_not_coarsen_it(tmp_path: Path, scale):
    ruleset, known = load(tmp_path), examples(60)
    for example in known:
        example.request.scores[:] *= scale
    known[0].request.scores[12, 0] = 3e35
    found = sweep(ruleset, ruleset.rules[0], ruleset.rules[0].signals[0], known)
    peaks = sorted(float(example.request.scores[4:, 0].max()) for example in known)
    assert not found.matched[0].any()
    assert found.matched[-1].all()
    between = found.thresholds[(found.thresholds > peaks[0]) & (found.thresholds < peaks[-2])]
    assert len(between) > 100


def test_no_threshold_lies_between_nothing_and_the_smallest_score(tmp_path: Path):
    ruleset, known = load(tmp_path), examples(60)
    for example in known:
        scores = example.request.scores
        scores[scores < 2] = 0
    found = sweep(ruleset, ruleset.rules[0], ruleset.rules[0].signals[0], known)
    assert found.thresholds[-2:].tolist() == pytest.approx([2.0, 0.0], abs=0.1)
    assert found.matched[-1].all()


def test_thresholds_below_which_it_matches_go_the_other_way(tmp_path: Path):
    low = RULES.replace("agg: max, window: 4 tokens, gte: 3.0", "agg: value, lt: 0.02")
    ruleset, known = load(tmp_path, low), examples(40)
    found = sweep(ruleset, ruleset.rules[0], ruleset.rules[0].signals[0], known)
    assert (np.diff(found.thresholds) > 0).all()
    assert found.is_monotone
    assert (found.positions[0] == NEVER).all()


def test_a_signal_of_nothing_observed_gives_silence_at_every_threshold(tmp_path: Path):
    ruleset = load(tmp_path)
    known = [
        replace(e, request=replace(e.request, scores=np.full_like(e.request.scores, np.nan)))
        for e in examples(4)
    ]
    found = sweep(ruleset, ruleset.rules[0], ruleset.rules[0].signals[0], known)
    assert not found.matched.any()


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        (NEGATED, "calm", "does not make the rule stricter in one direction"),
        (SEQUENCE, "calm", "does not make the rule stricter in one direction"),
        (NEGATED, "anger", "no signal 'anger'; it has lie, calm"),
        (RULES.replace("gte: 3.0", "between: [1, 2]"), None, "say which signal: none can be set"),
    ],
)
def test_a_signal_that_cannot_be_set_is_refused(tmp_path, text, name, message):
    with pytest.raises(CannotSweep, match=message):
        find_signal(load(tmp_path, text).rules[0], name)


def test_the_only_signal_that_can_be_set_need_not_be_named(tmp_path: Path):
    for text in (RULES, NEGATED, SEQUENCE):
        assert find_signal(load(tmp_path, text).rules[0]).name == "lie"
