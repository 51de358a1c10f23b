"""What the engine skips could not have matched: bounds are compared with doing without them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from saeguard.rules import Engine, RequestContext, Signal
from saeguard.rules.engine import signal_tests
from saeguard.rules.model import Aggregate
from tests.rules.generate import (
    FEATURES,
    random_cuts,
    random_phases,
    random_scores,
    rule_set,
    rule_sets,
    simple_rule,
)
from tests.rules.test_reference import plain, shown

pytestmark = pytest.mark.usefixtures("kernels")


def play(engine: Engine, scores, phases, ends) -> list:
    """All matches of one request, whose stream is cut at these ends."""
    engine.start("r", RequestContext())
    matches = []
    for begin, end in zip([0, *ends], ends, strict=False):
        part, positions = slice(begin, end), np.arange(begin, end)
        matches += engine.observe(["r"], [0, end - begin], scores[part], positions, phases[part])
    return matches


@settings(
    max_examples=100,
    derandomize=True,
    deadline=None,
    database=None,
    phases=(Phase.generate,),
    suppress_health_check=list(HealthCheck),
)
@given(
    ruleset=rule_sets(),
    seed=st.integers(0, 9999),
    share_nonzero=st.sampled_from([1.0, 0.1, 0.02]),
    share_holes=st.sampled_from([0.0, 0.005]),
)
def test_skipping_changes_nothing(ruleset, seed, share_nonzero, share_holes):
    rng = np.random.default_rng(seed)
    scores = random_scores(rng, 2500, share_nonzero, share_holes)
    phases = random_phases(rng, 2500, 0.002)
    skipping = play(Engine(ruleset, FEATURES), scores, phases, random_cuts(rng, 2500, 300))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signal_tests, "bound_of", lambda test: None)
        thorough = play(Engine(ruleset, FEATURES), scores, phases, random_cuts(rng, 2500, 300))
    assert list(map(plain, skipping)) == list(map(shown, thorough))


_RISING = [
    Aggregate(("f0",), "mean", tokens=4),
    Aggregate(("f0",), "rolling_mean_max", tokens=3, rolling=4),
]


@pytest.mark.parametrize("aggregate", _RISING, ids=lambda aggregate: aggregate.kind)
@pytest.mark.parametrize("cut", [1, 4, 5, 8])
def test_a_mean_that_rises_because_scores_are_missing_is_noticed(aggregate, cut):
    """The mean of 0 0 0 5 is too little, but that of 5 alone is not."""
    nan = np.nan
    scores = np.array([[0, 0, 0, 5, nan, nan, nan, nan]] * len(FEATURES), np.float32).T
    scores[:, 1] = 0  # so that the rule looks at all tokens
    other = Signal("other", Aggregate(("f1",), "value"), "lt", 1.0)
    ruleset = rule_set(simple_rule(Signal("s", aggregate, "gte", 2.4), other))
    ends = sorted({cut, 8})
    (match,) = play(Engine(ruleset, FEATURES), scores, np.full(8, 3, np.uint8), ends)
    assert match.position == 5
