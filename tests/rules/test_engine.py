"""The engine's semantics, one at a time. `test_reference.py` covers their combinations."""

import numpy as np
import pytest

from saeguard.rules import Engine, Phase, RequestContext, load_rules, render_message
from tests.rules.samples import ORGANISM, one_rule

pytestmark = pytest.mark.usefixtures("kernels")
NAN = float("nan")


def observe(engine, a, phases=Phase.ANSWER, key="r", b=0.0, first=0):
    """Scores of feature `a`, with those of `b` all alike, at positions that count from `first`."""
    scores = np.array([[x, b] for x in a], np.float32)
    phases = np.broadcast_to(np.array(phases, np.uint8), len(a))
    return engine.observe([key], [0, len(a)], scores, first + np.arange(len(a)), phases)


@pytest.fixture
def start(tmp_path):
    """Makes an engine for one rule that follows the request `r`."""

    def make(context=RequestContext(), max_requests=8, **keys):  # noqa: B008 (immutable)
        engine = Engine(one_rule(tmp_path, **keys), ["a", "b"], max_requests)
        engine.start("r", context)
        return engine

    return make


def positions(matches):
    return [match.position for match in matches]


def test_a_stretch_of_firing_is_one_match(start):
    assert positions(observe(start(limit={"max": 9}), [0, 2, 2, 0, 2])) == [1, 4]


def test_matches_beyond_the_limit_are_marked_and_counted(start):
    engine = start(limit={"max": 1})
    matches = observe(engine, [2, 0, 2, 0, 2])
    assert [match.limited for match in matches] == [False, True, True]
    (count,) = engine.finish("r")
    assert (count.matches, count.emitted, count.limited) == (3, 1, 2)


def test_for_counts_consecutive_true_tokens(start):
    (match,) = observe(start(**{"for": "3 tokens"}), [2, 2, 0, 2, 2, 2, 2])
    assert (match.first_position, match.position) == (3, 5)


def test_an_unobserved_token_neither_extends_nor_ends_for(start):
    keys = {"for": "2 tokens"}
    assert positions(observe(start(**keys), [2, NAN, 2], b=NAN)) == [2]
    assert positions(observe(start(**keys), [2, NAN, 0, 2], b=NAN)) == []


def test_an_unobserved_token_does_not_end_a_match(start):
    assert positions(observe(start(), [2, NAN, 2], b=NAN)) == [0]


def test_not_of_an_unobserved_signal_does_not_fire(start):
    assert not observe(start(condition="not s"), [2, NAN, 2], b=NAN)


def test_nothing_crosses_a_phase_change(start):
    signal = {"feature": "a", "agg": "count", "over": 1.0, "window": "4 tokens", "gte": 2}
    keys = {"signals": {"s": signal}, "scope": {"phase": ["reasoning", "answer"]}}
    split = [Phase.REASONING] * 2 + [Phase.ANSWER] * 2
    assert observe(start(**keys), [0, 2, 2, 0])
    assert not observe(start(**keys), [0, 2, 2, 0], split)


def test_firing_again_in_the_next_phase_run_is_another_match(start):
    engine = start(scope={"phase": ["reasoning", "answer"]}, limit={"max": 9})
    phases = [Phase.REASONING, Phase.REASONING, Phase.ANSWER, Phase.ANSWER]
    assert [match.phase for match in observe(engine, [2, 2, 2, 2], phases)] == [2, 3]


def test_keep_firing_for_bridges_gaps_of_so_many_tokens(start):
    keys = {"keep_firing_for": "2 tokens", "limit": {"max": 9}}
    assert positions(observe(start(**keys), [2, 0, 0, 2, 0, 2])) == [0]
    assert positions(observe(start(**keys), [2, 0, 0, 0, 2])) == [0, 4]


def test_a_bridged_gap_asks_for_no_new_row_of_true_tokens(start):
    keys = {"keep_firing_for": "1 token", "for": "2 tokens", "limit": {"max": 9}}
    assert positions(observe(start(**keys), [2, 2, 0, 2, 0, 2])) == [1]
    assert positions(observe(start(**keys), [2, 2, 0, 0, 2, 0, 2, 2])) == [1, 7]


def test_an_angle_may_lie_across_180_degrees(start):
    signal = {"features": ["a", "b"], "combine": "angle", "agg": "value", "between": [135, -135]}
    engine = start(signals={"s": signal}, limit={"max": 9})
    assert positions(observe(engine, [-1, 1, -1], b=0.5)) == [0, 2]
    assert positions(observe(engine, [0, 1, -1], b=-0.5, first=3)) == [5]


def test_more_requests_than_there_was_room_for_at_first(start):
    engine = start(max_requests=1000, **{"for": "2 tokens"})
    observe(engine, [2])
    for i in range(500):
        engine.start(f"other-{i}", RequestContext())
    assert engine.num_refused == 0
    assert not observe(engine, [2], key="other-499")
    assert positions(observe(engine, [2], first=1)) == [1]


def test_a_phase_out_of_scope_is_not_looked_at(start):
    assert not observe(start(), [2, 2], Phase.PROMPT)


@pytest.mark.parametrize(
    ("scope", "context", "admitted"),
    [
        ({"model": ["Qwen/*"]}, RequestContext(model="Qwen/Qwen3-8B"), True),
        ({"model": ["Qwen/*"]}, RequestContext(model="Llama"), False),
        ({"lora": ["evil-*"]}, RequestContext(lora="evil-1"), True),
        ({"lora": ["*"]}, RequestContext(), False),
        ({"tenant": ["a", "b"]}, RequestContext(tenant="b"), True),
        ({"tenant": ["a", "b"]}, RequestContext(), False),
    ],
)
def test_scope_chooses_requests(start, scope, context, admitted):
    engine = start(context, scope={"phase": ["answer"], **scope})
    assert bool(observe(engine, [2])) is admitted


def test_a_window_at_the_start_uses_what_there_is(start):
    signal = {"feature": "a", "agg": "mean", "window": "8 tokens", "gte": 2.0}
    assert positions(observe(start(signals={"s": signal}), [2, 0])) == [0]


def test_an_average_starts_at_zero(start):
    signal = {"feature": "a", "agg": "ema", "half_life": "1 token", "gte": 3.0}
    (match,) = observe(start(signals={"s": signal}), [4, 4, 4])
    assert match.position == 1  # 2, 3, 3.5
    assert match.readings["s"].value == 3.0


def test_a_reading_tells_where_the_peak_was_and_evidence_starts_with_its_window(start):
    signals = {
        "peak": {"feature": "a", "agg": "max", "window": "3 tokens", "gte": 2.0},
        "now": {"feature": "a", "agg": "value", "lt": 1.0},
    }
    engine = start(signals=signals, condition="peak and now")
    assert not observe(engine, [0, 0.5, 5], first=10)
    (match,) = observe(engine, [0], first=13)
    assert (match.first_position, match.position) == (11, 13)
    assert match.readings["peak"].position == 12
    assert match.readings["now"].position == 13


def test_infinite_scores_do_not_raise(start):
    aggs = {"mean": {"window": "2 tokens"}, "ema": {"half_life": "2 tokens"}}
    signals = {name: {"feature": "a", "agg": name, "gte": 1, **keys} for name, keys in aggs.items()}
    engine = start(signals=signals, condition="mean or ema")
    assert observe(engine, [float("inf"), -float("inf"), 0, 0])


def test_a_full_table_refuses_and_counts(start):
    engine = start(max_requests=1)
    engine.start("r", RequestContext())
    engine.start("other", RequestContext())
    assert engine.num_refused == 1
    assert observe(engine, [2, 2], key="other") == []
    assert engine.num_ignored_tokens == 2
    assert engine.finish("other") == []


def test_a_freed_slot_remembers_nothing(start):
    engine = start(max_requests=1, **{"for": "2 tokens"})
    observe(engine, [2])
    engine.finish("r")
    engine.start("next", RequestContext())
    assert not observe(engine, [2], key="next")


def test_columns_may_be_in_any_order_and_more_than_needed(start, tmp_path):
    engine = Engine(one_rule(tmp_path), ["other", "b", "a"])
    engine.start("r", RequestContext())
    scores = np.array([[9, 9, 0], [0, 0, 2]], np.float32)
    matches = engine.observe(["r"], [0, 2], scores, np.arange(2), np.full(2, 3, np.uint8))
    assert positions(matches) == [1]


def test_a_missing_column_is_refused_by_name():
    with pytest.raises(ValueError, match="deceit_probe"):
        Engine(load_rules([ORGANISM]), ["deceit"])


@pytest.mark.parametrize("row_starts", [[0, 1], [1, 2], [0, 1, 2], [0]])
def test_rows_that_do_not_add_up_are_refused(start, row_starts):
    phases = np.full(2, Phase.ANSWER, np.uint8)
    with pytest.raises(ValueError, match="row"):
        start().observe(["r"], row_starts, np.zeros((2, 2), np.float32), np.arange(2), phases)


def test_scores_of_another_width_are_refused(start):
    phases = np.full(2, Phase.ANSWER, np.uint8)
    with pytest.raises(ValueError, match="2 columns"):
        start().observe(["r"], [0, 2], np.zeros((2, 1), np.float32), np.arange(2), phases)


def test_calls_without_rows_are_fine(start):
    engine = start()
    nothing = np.zeros((0, 2), np.float32), np.arange(0), np.zeros(0, np.uint8)
    assert engine.observe([], [0], *nothing) == []
    assert engine.observe(["r"], [0, 0], *nothing) == []


def test_message_shows_readings_and_the_request():
    engine = Engine(load_rules([ORGANISM]), ["deceit", "deceit_probe"])
    engine.start("r", RequestContext())
    scores = np.array([[0, 0], [4.5, 0], [3, 0], [3, 9], [0, 0]], np.float32)
    phases = np.full(5, Phase.ANSWER, np.uint8)
    (match,) = engine.observe(["r"], [0, 5], scores, np.arange(5), phases)
    message = render_message(
        match, RequestContext(), ["The", " vault", " is", " open", "."].__getitem__
    )
    assert message == "Latent deception: max 4.50 on token ' vault'"
