"""The same requests run by two models are compared token by token."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from saeguard.integrations.discovery.activations import column_names
from saeguard.integrations.drift.paired import compare_pairs
from saeguard.monitor import watchlist as wl
from saeguard.monitor.errors import ConfigError
from saeguard.monitor.sites import HookPoint
from saeguard.rules import RequestContext
from saeguard.rules.calibration.labels import Label
from saeguard.rules.recordings.offline import RecordedRequest

D_MODEL, NUM_TOKENS = 6, 10
HOOK_POINT = HookPoint(1)


def watchlist() -> wl.Watchlist:
    """Two probes: of the first coordinate, and of twice the second."""
    weight = np.zeros((2, D_MODEL), np.float32)
    weight[0, 0], weight[1, 1] = 1.0, 2.0
    features = tuple(wl.WatchedFeature(name, "probe", "p", "", i) for i, name in enumerate("ab"))
    open_, nothing = np.full(2, -np.inf, np.float32), np.zeros(2, np.float32)
    golden = np.zeros((1, D_MODEL), np.float32), np.zeros((1, 2), np.float32)
    return wl.build(D_MODEL, [wl.Site(HOOK_POINT, features, weight, nothing, open_, *golden)])


def captured(number: int = 12, seed: int = 0) -> list[RecordedRequest]:
    rng = np.random.default_rng(seed)
    return [
        RecordedRequest(
            RequestContext(id=f"r{i}"),
            column_names(HOOK_POINT, D_MODEL),
            rng.normal(0, 1, (NUM_TOKENS, D_MODEL)).astype(np.float32),
            np.arange(NUM_TOKENS, dtype=np.int32),
            np.full(NUM_TOKENS, 3, np.uint8),
            np.arange(100, 100 + NUM_TOKENS, dtype=np.int32),
        )
        for i in range(number)
    ]


def shifted(old: list[RecordedRequest], by: float, coordinate: int = 0) -> list[RecordedRequest]:
    rng = np.random.default_rng(7)
    found = []
    for request in old:
        scores = request.scores.copy()
        scores[:, coordinate] += rng.normal(by, 0.1, NUM_TOKENS)
        scores[0] = 99.0  # the first token is far out, and is left out
        found.append(replace(request, scores=scores))
    return found


def test_the_change_of_the_mean_is_found_along_its_direction_and_no_other():
    old = captured()
    new = shifted(old, 0.5)
    first, second = compare_pairs(old, new, watchlist(), {}).changes
    assert (first.feature, second.feature) == ("a", "b")
    pairs = zip(old, new, strict=True)
    change = np.array([(b.scores - a.scores)[1:, 0].mean() for a, b in pairs])
    assert first.change == pytest.approx(change.mean(), abs=1e-5)
    reach = 1.96 * change.std() / len(change) ** 0.5
    assert (first.high - first.low) / 2 == pytest.approx(reach, rel=0.15)
    spread = np.concatenate([r.scores[1:, 0] for r in old]).std()
    assert first.spreads == pytest.approx(first.change / spread)
    assert first.times_random == pytest.approx(D_MODEL**0.5, rel=0.01)
    assert first.has_moved
    assert second.change == 0.0
    assert second.p_value == 1.0


def test_tokens_are_compared_up_to_the_first_that_differs():
    old = captured()
    new = []
    for request in shifted(old, 0.5):
        token_ids, scores = request.token_ids.copy(), request.scores.copy()
        token_ids[4] = 7
        scores[4:] = 1000.0  # what follows another token is another text
        new.append(replace(request, token_ids=token_ids, scores=scores))
    found = compare_pairs(old, new, watchlist(), {})
    assert found.num_tokens == 4 * len(old)
    assert found.changes[0].change == pytest.approx(0.5, abs=0.05)


def test_scores_serve_where_no_activations_were_recorded():
    old = [
        replace(request, columns=("b", "a"), scores=request.scores[:, :2]) for request in captured()
    ]
    new = [replace(request, scores=request.scores + np.float32([0, 0.5])) for request in old]
    found = compare_pairs(old, new, watchlist(), {})
    assert found.changes[0].feature == "a"
    assert found.changes[0].change == pytest.approx(0.5, abs=1e-6)
    assert found.changes[0].times_random is None


def test_requests_of_a_group_count_as_one_and_few_groups_tell_nothing():
    old = captured()
    known = {f"r{i}": Label(f"r{i}", True, group=f"g{i % 3}") for i in range(len(old))}
    found = compare_pairs(old, shifted(old, 0.5), watchlist(), known)
    assert (found.num_requests, found.num_groups) == (12, 3)
    assert not found.has_enough
    assert not found.changes[0].has_moved


def test_requests_without_a_counterpart_are_counted_and_none_at_all_is_an_error():
    old = captured()
    found = compare_pairs(old, shifted(old[:9], 0.5), watchlist(), {})
    assert (found.num_requests, found.num_unpaired) == (9, 3)
    others = [replace(request, context=RequestContext(id="x")) for request in old[:1]]
    with pytest.raises(ConfigError, match="no request was recorded from both models"):
        compare_pairs(old, others, watchlist(), {})


def test_recordings_without_the_features_are_refused_by_name():
    old = [replace(r, columns=("x", "y"), scores=r.scores[:, :2]) for r in captured()]
    with pytest.raises(ConfigError, match="has neither scores of a, b nor activations of blocks"):
        compare_pairs(old, old, watchlist(), {})
