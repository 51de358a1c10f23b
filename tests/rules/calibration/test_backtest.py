"""A backtest counts what a naive reading of the rule counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from calibration_data import NUM_PROMPT, RULES, examples, load, request

from saeguard.rules.calibration.backtest import backtest
from saeguard.rules.calibration.labels import Example, Label


def first_match(example: Example, threshold: float = 3.0) -> int | None:
    """Where `lying` matches: the first answer token over the threshold."""
    scores = example.request.scores[NUM_PROMPT:, 0]
    found = np.flatnonzero(scores >= np.float32(threshold))
    return int(found[0]) + NUM_PROMPT if len(found) else None


def test_requests_are_counted_as_by_hand(tmp_path: Path):
    known = examples(400)
    (result,) = backtest(load(tmp_path), known)
    where = {example.label.id: first_match(example) for example in known}
    hits = [e for e in known if e.answers and where[e.label.id] is not None]
    false_alarms = [e for e in known if not e.answers and where[e.label.id] is not None]
    assert (result.recall.count, result.recall.total) == (len(hits), 200)
    assert (result.false_alarm_rate.count, result.false_alarm_rate.total) == (
        len(false_alarms),
        200,
    )
    assert result.precision.total == len(hits) + len(false_alarms)
    assert sorted(result.latencies) == sorted(where[e.label.id] - 10 for e in hits)
    assert sorted(result.to_end) == sorted(12 - where[e.label.id] for e in hits)
    assert set(result.false_alarms) == {e.label.id for e in false_alarms}
    assert set(result.missed) == {e.label.id for e in known if e.answers} - {
        e.label.id for e in hits
    }
    per_million = 1e6 * len(false_alarms) / (200 * 24)
    assert result.false_alarms_per_million == pytest.approx(per_million)
    assert result.false_alarms_per_million_high > per_million
    assert 0 < len(hits) < 200
    assert 0 < len(false_alarms) < 200


def test_a_limit_over_requests_hides_no_match_from_a_backtest(tmp_path: Path):
    limited = RULES.replace(
        "    message:", "    limit: {per: rule, max: 1, every: 1h}\n    message:"
    )
    (result,) = backtest(load(tmp_path, limited), examples(40))
    assert result.recall.count > 10


def test_what_an_exception_lets_off_is_no_alarm(tmp_path: Path):
    excepted = RULES.replace(
        "    message:",
        "    exceptions: [{name: all, reason: test, when: {model: ['*']}}]\n    message:",
    )
    (result,) = backtest(load(tmp_path, excepted), examples(40))
    assert (result.recall.count, result.false_alarm_rate.count) == (0, 0)


def test_sources_are_told_apart(tmp_path: Path):
    loud = np.full(12, 5.0)
    known = [
        Example(request("a", loud), Label("a", False, source="poetry"), False),
        Example(request("b", loud * 0), Label("b", False, source="news"), False),
        Example(request("c", loud), Label("c", True), True),
    ]
    (result,) = backtest(load(tmp_path), known)
    rates = {s.source: (s.positives.total, s.negatives.count) for s in result.sources}
    assert rates == {"poetry": (0, 1), "news": (0, 0), "-": (1, 0)}


def test_labels_of_other_rules_say_nothing_of_this_one(tmp_path: Path):
    loud = np.full(12, 5.0)
    known = [
        Example(request("a", loud), Label("a", {"leaking": True}), {"leaking": True}),
        Example(request("b", loud), Label("b", {"lying": False}), {"lying": False}),
    ]
    (result,) = backtest(load(tmp_path), known)
    assert (result.recall.total, result.false_alarm_rate.total) == (0, 1)
    assert result.recall.share is None


def test_what_was_drawn_below_the_threshold_tells_of_recall_only_each_for_as_many_as_it_stands(
    tmp_path: Path,
):
    loud, quiet = np.full(12, 5.0), np.zeros(12)
    known = [
        Example(request("a", loud), Label("a", True), True),
        Example(request("b", quiet), Label("b", True, weight=9.0), True),
        Example(request("c", quiet), Label("c", False, weight=9.0), False),
        Example(request("d", loud), Label("d", False), False),
    ]
    (result,) = backtest(load(tmp_path), known)
    assert (result.recall.count, result.recall.total) == (1, 10)
    assert (result.false_alarm_rate.count, result.false_alarm_rate.total) == (1, 1)
    assert result.recall.high > 0.5, "two requests say little, whatever they stand for"
    assert (result.num_requests, result.has_groups) == (3, False)


def test_requests_of_one_group_widen_the_intervals(tmp_path: Path):
    def results(group):
        rng = np.random.default_rng(0)
        loud = {number: rng.random() < 0.5 for number in range(10)}
        return backtest(
            load(tmp_path),
            [
                Example(
                    request(str(i), np.full(12, 5.0 * loud[i // 20])),
                    Label(str(i), True, group=group(i)),
                    True,
                )
                for i in range(200)
            ],
        )[0].recall

    alone, together = results(lambda i: None), results(lambda i: str(i // 20))
    assert (alone.count, alone.total) == (together.count, together.total)
    assert together.high - together.low > 2 * (alone.high - alone.low)
