"""Drift is found where scores have moved, and where they have not it is not."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pytest
from drifting import requests

from saeguard.rules.calibration.statistics import as_json, from_json, statistics_of
from saeguard.rules.drift.compare import compare
from saeguard.rules.drift.results import Compared, Criteria, Drift
from saeguard.rules.drift.samples import Sample
from saeguard.rules.phases import Phase
from saeguard.rules.recordings.offline import RecordedRequest

THRESHOLDS = {"lie": [5.0], "probe": [0.0]}
EASY = Criteria(detect=1.0)


def compared(
    old: Sequence[RecordedRequest], new: Sequence[RecordedRequest], criteria: Criteria = EASY
) -> dict[str, Drift]:
    found = compare(Sample.plain(old), Sample.plain(new), THRESHOLDS, criteria)
    return {drift.feature: drift for drift in found.drifts}


def verdicts(found: dict[str, Drift]) -> dict[str, str]:
    return {name: drift.verdict for name, drift in found.items()}


def test_where_nothing_has_moved_nothing_is_found_though_tokens_of_a_request_are_alike():
    p_values = [
        drift.p_value
        for seed in range(20)
        for drift in compared(requests(30, 2 * seed), requests(30, 2 * seed + 1)).values()
    ]
    assert np.mean(np.array(p_values) <= 0.1) < 0.25  # a test of tokens: 0.9


@pytest.mark.parametrize(
    ("change", "feature"),
    [({"density": 0.25}, "lie"), ({"scale": 2.0}, "lie"), ({"shift": 1.2}, "probe")],
)
def test_what_has_moved_is_found_and_nothing_else(change, feature: str):
    found = compared(requests(200, 5), requests(200, 6, **change))
    others = set(found) - {feature}
    assert found[feature].verdict == "moved"
    assert found[feature].q_value <= 0.05
    assert all(found[name].verdict == "none" for name in others)


def test_shares_and_their_intervals_are_those_of_each_side():
    old, new = requests(200, 1), requests(200, 2, density=0.25)
    found = compared(old, new)["lie"]
    for side, of in ((found.reference, old), (found.recent, new)):
        scores = np.concatenate([request.scores[:, 0] for request in of])
        assert side.density.value == pytest.approx(np.mean(scores > 0))
        assert side.statistics.density == pytest.approx(np.mean(scores > 0))
        assert np.mean(scores >= 5.0) <= side.above[5.0].value <= np.mean(scores >= 5.0 / 1.02)
        assert side.density.low < side.density.value < side.density.high
        naive = 1.96 * np.sqrt(side.density.value * (1 - side.density.value) / len(scores))
        assert side.density.high - side.density.low > 3 * naive  # requests are the unit


def test_a_calibration_record_serves_as_well_as_the_requests_it_was_made_of():
    old = requests(200, 1)
    record = from_json(json.loads(json.dumps(as_json(statistics_of(old)))))

    def of(new: Sequence[RecordedRequest]) -> Compared:
        return compare(record, Sample.plain(new), THRESHOLDS, EASY)

    assert [d.verdict for d in of(requests(200, 3)).drifts] == ["none", "none"]
    moved = of(requests(200, 2, density=0.25))
    assert [d.verdict for d in moved.drifts] == ["moved", "none"]
    assert moved.num_reference == moved.num_recent == 200
    assert moved.drifts[0].reference.density.low is None
    gone = of(requests(200, 2, density=0.0))
    assert gone.drifts[0].verdict == "moved"


def test_of_a_record_what_two_requests_had_and_no_recent_one_has_is_no_drift():
    old, new = requests(100, 1, density=0.0), requests(100, 2, density=0.0)
    old[3].scores[:4, 0] = old[50].scores[2, 0] = 6.0
    (found, _) = compare(statistics_of(old), Sample.plain(new), THRESHOLDS, EASY).drifts
    assert found.feature == "lie"
    assert found.p_value > 0.1


def test_a_topic_that_has_become_more_frequent_is_no_drift_within_topics():
    def side(seed: int, num_plays: int) -> Sample:
        plays = requests(num_plays, seed, density=0.4)
        others = requests(300 - num_plays, seed + 1)
        strata = ["plays"] * len(plays) + ["others"] * len(others)
        everything = [*plays, *others]
        return Sample(everything, [r.context.id for r in everything], strata)

    old, new = side(10, 60), side(20, 180)
    plain = compared(old.requests, new.requests)
    assert plain["lie"].verdict == "moved"
    within = compare(old, new, THRESHOLDS, EASY)
    assert [drift.verdict for drift in within.drifts] == ["none", "none"]


def test_requests_of_a_topic_that_one_side_lacks_are_left_out_and_counted():
    old, new = requests(60, 1), requests(60, 2)
    names = [[r.context.id for r in side] for side in (old, new)]
    found = compare(
        Sample(old, names[0], ["news"] * 60),
        Sample(new, names[1], ["news"] * 40 + ["poems"] * 20),
        THRESHOLDS,
    )
    assert found.left_out == {"poems": 20}
    assert found.num_recent == 40


def test_requests_of_a_group_count_as_one():
    old, new = requests(60, 1), requests(60, 2, density=0.25)
    found = compare(
        Sample(old, [f"a{i % 6}" for i in range(60)], [""] * 60),
        Sample(new, [f"b{i % 6}" for i in range(60)], [""] * 60),
        THRESHOLDS,
    )
    assert (found.num_reference, found.num_recent) == (6, 6)
    assert found.drifts[0].recent.statistics.num_groups == 6


def test_the_same_requests_run_again_show_smaller_changes_than_others_do():
    old = requests(100, 1)
    louder = [_louder(request, 1.3) for request in old]
    paired = compared(old, louder)["lie"]
    renamed = [_louder(request, 1.3) for request in requests(100, 1, tag="other")]
    single = compared(old, renamed)["lie"]
    assert paired.p_value < 0.002 < single.p_value
    assert paired.detectable < single.detectable


def _louder(request: RecordedRequest, factor: float) -> RecordedRequest:
    return RecordedRequest(
        request.context,
        request.columns,
        request.scores * np.float32([factor, 1]),
        request.positions,
        request.phases,
    )


def test_too_little_data_is_said_with_how_much_it_takes_and_so_much_is_enough():
    few = compared(requests(80, 1), requests(80, 2), Criteria(detect=0.4))["lie"]
    assert few.verdict == "too_little"
    assert few.num_needed > 80
    number = few.num_needed
    enough = compared(requests(number, 3), requests(number, 4), Criteria(detect=0.4))["lie"]
    assert enough.detectable == pytest.approx(0.4, abs=0.08)


def test_what_would_be_found_four_times_in_five_is_found_about_so_often():
    first = compared(requests(150, 1), requests(150, 2))["lie"]
    # A density that is higher by `detectable` of the activity then.
    density = 0.1 / (1 - first.detectable)
    found = [
        compared(requests(150, 100 + seed), requests(150, 200 + seed, density=density))["lie"]
        for seed in range(12)
    ]
    assert sum(drift.q_value <= 0.05 for drift in found) >= 6


def test_a_feature_that_never_fires_tells_nothing_and_is_no_drift():
    old, new = requests(30, 1, density=0.0), requests(30, 2, density=0.0)
    found = compared(old, new)
    assert verdicts(found)["lie"] == "silent"
    assert found["lie"].q_value == 1.0


def test_what_only_one_side_has_seen_is_named():
    old = requests(30, 1)
    prompts = [
        RecordedRequest(r.context, r.columns, r.scores, r.positions, r.phases * 0 + Phase.PROMPT)
        for r in requests(30, 2)
    ]
    found = compare(Sample.plain(old), Sample.plain([*prompts, *requests(30, 3)]), THRESHOLDS)
    assert found.unobserved == (("lie", Phase.PROMPT), ("probe", Phase.PROMPT))


def test_a_change_too_small_to_matter_is_told_apart_from_one_that_does():
    old = requests(300, 1)
    found = compared(old, [_louder(request, 1.03) for request in old])["lie"]
    assert found.verdict == "small"
    assert found.moved < 0.1
