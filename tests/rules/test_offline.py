"""Recorded requests are evaluated like live ones, in the order of their times."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from saeguard.rules import Phase, RequestContext
from saeguard.rules.recordings.offline import RecordedRequest, RecordingError, play, request_keys
from tests.rules.decisions import correlation, make_rule
from tests.rules.samples import one_rule

NAN = float("nan")


def recorded(a, columns=("a", "b"), context=RequestContext(), **fields):  # noqa: B008 (immutable)
    """A request whose tokens have these scores of `a`, all in the answer."""
    scores = np.zeros((len(a), len(columns)), np.float32)
    if "a" in columns:
        scores[:, columns.index("a")] = a
    positions = fields.pop("positions", np.arange(len(a), dtype=np.int32))
    phases = np.full(len(a), Phase.ANSWER, np.uint8)
    return RecordedRequest(context, columns, scores, positions, phases, **fields)


def played(ruleset, *requests):
    return [(d.match.key, d.match.position, d.outcome) for d in play(ruleset, requests)]


def test_matches_are_found_where_they_were_recorded(tmp_path):
    request = recorded([0, 2, 0, 2], positions=np.array([7, 8, 12, 13], np.int32))
    assert played(one_rule(tmp_path), request) == [("#1", 8, "alert"), ("#1", 13, "limited")]


def test_a_score_that_was_not_observed_is_not_zero(tmp_path):
    signal = {"s": {"feature": "a", "agg": "value", "lt": 1.0}}
    assert played(one_rule(tmp_path, signals=signal), recorded([NAN, NAN, 0])) == [
        ("#1", 2, "alert")
    ]


def test_requests_are_played_in_the_order_of_their_times_and_give_them_to_their_matches(tmp_path):
    contexts = [RequestContext(id=name) for name in "abc"]
    requests = [
        recorded([2], context=context, time_ns=time_ns)
        for context, time_ns in zip(contexts, (30, 10, 20), strict=True)
    ]
    decisions = list(play(one_rule(tmp_path), requests))
    assert [(d.match.key, d.time_ns) for d in decisions] == [("b", 10), ("c", 20), ("a", 30)]
    assert [d.context for d in decisions] == [contexts[1], contexts[2], contexts[0]]


def test_correlations_see_all_recorded_requests(tmp_path):
    ruleset = one_rule(tmp_path, limit={"max": 9})
    question = correlation("event_count", ["the_rule"], gte=3, timespan_s=10)
    ruleset = replace(ruleset, rules=(*ruleset.rules, make_rule("c", detection=question)))
    apart = [recorded([2, 0, 2], time_ns=0), recorded([2], time_ns=11 * 10**9)]
    assert [d.match.rule.name for d in play(ruleset, apart)] == ["the_rule"] * 3
    near = [recorded([2, 0, 2], time_ns=0), recorded([2], time_ns=10 * 10**9)]
    *_, completed = play(ruleset, near)
    assert completed.match.rule.name == "c"
    assert [event.key for event in completed.match.events] == ["#1", "#1", "#2"]


def test_recordings_may_have_their_columns_in_any_order_and_more_than_are_needed(tmp_path):
    ruleset = one_rule(tmp_path)
    requests = [recorded([2], columns=columns) for columns in (("b", "a"), ("a",), ("x", "a", "y"))]
    assert [outcome for _, _, outcome in played(ruleset, *requests)] == ["alert"] * 3


def test_a_recording_that_lacks_a_feature_is_refused_with_the_names_of_both(tmp_path):
    requests = [recorded([2]), recorded([2], columns=("b",), source="runs.jsonl:2")]
    with pytest.raises(RecordingError) as caught:
        played(one_rule(tmp_path), *requests)
    assert str(caught.value) == ("runs.jsonl:2: the rules read a, which was not recorded; it has b")


def test_nothing_is_evaluated_before_all_recordings_have_been_found_sufficient(tmp_path):
    requests = [recorded([2], time_ns=1), recorded([2], columns=("b",), time_ns=2)]
    with pytest.raises(RecordingError):
        next(play(one_rule(tmp_path), requests))


def test_keys_are_ids_and_numbers_where_those_do_not_tell_requests_apart():
    ids = ["a", "b", "a", "", ""]
    requests = [recorded([0], context=RequestContext(id=each)) for each in ids]
    assert request_keys(requests) == ["a#1", "b", "a#3", "#4", "#5"]
