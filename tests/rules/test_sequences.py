"""Step sequences, one part of their meaning at a time."""

import numpy as np
import pytest

from saeguard.rules import Engine, Phase, RequestContext
from tests.rules.samples import one_rule

A = {"when": "first"}
B = {"when": "second"}


@pytest.fixture
def run(tmp_path):
    """Positions (of the first step, of the match), for tokens on which `a`, `b` or neither is 2.

    Capital letters stand for tokens of the reasoning, small ones for tokens of the answer; `x` is
    a token with both.
    """

    def play(tokens, pieces=1, **sequence):
        signals = {
            "first": {"feature": "a", "agg": "value", "gt": 1.0},
            "second": {"feature": "b", "agg": "value", "gt": 1.0},
        }
        rule = {
            "signals": signals,
            "scope": {"phase": ["reasoning", "answer"]},
            "sequence": {"steps": [A, B], "within": "100 tokens", **sequence},
            "condition": None,
        }
        engine = Engine(one_rule(tmp_path, **rule), ["a", "b"])
        engine.start("r", RequestContext())
        scores = np.array([[2 * (t in "aAx"), 2 * (t in "bBx")] for t in tokens], np.float32)
        phases = [Phase.REASONING if t.isupper() else Phase.ANSWER for t in tokens]
        phases, positions = np.array(phases, np.uint8), np.arange(len(tokens))
        matches = []
        for part in np.array_split(positions, pieces):
            starts = [0, len(part)]
            matches += engine.observe(["r"], starts, scores[part], part, phases[part])
        return [(match.first_position, match.position) for match in matches]

    return play


@pytest.mark.parametrize("pieces", [1, 2, 5])
def test_steps_come_true_on_later_tokens(run, pieces):
    assert run("..a.b", pieces) == [(2, 4)]
    assert run("..b.a", pieces) == []
    assert run("..x..", pieces) == []


def test_steps_may_lie_in_different_phases(run):
    steps = [A | {"phase": ["reasoning"]}, B | {"phase": ["answer"]}]
    assert run(".A.b", steps=steps) == [(1, 3)]
    assert run(".a.b", steps=steps) == []
    assert run(".A.B", steps=steps) == []


def test_the_last_step_is_at_most_so_many_tokens_after_the_first(run):
    assert run("a..b", within="3 tokens") == [(0, 3)]
    assert run("a...b", within="3 tokens") == []


def test_the_newest_first_step_counts(run):
    assert run("a.a..b", within="3 tokens") == [(2, 5)]


def test_a_match_uses_up_what_came_before_it(run):
    assert run("a.bb") == [(0, 2)]
    assert run("a.bab") == [(0, 2), (3, 4)]


def test_unless_cancels_what_began_before_it(run):
    steps = [A, A, A]
    assert run("a.a.a", steps=steps, unless=B) == [(0, 4)]
    assert run("a.aba", steps=steps, unless=B) == []
    assert run("a.a.x", steps=steps, unless=B) == []
    assert run("x.a.a", steps=steps, unless=B) == [(0, 4)]
