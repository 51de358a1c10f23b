"""The engine agrees with the naive reference, whatever the rules, the streams and their pieces."""

import math
from dataclasses import replace

import numpy as np
import pytest

from saeguard.rules import Engine, RequestContext
from tests.rules import generate, reference

NUM_FEATURES = 3


def same(match):
    """A match as something `==` can compare, NaN included, and a failing test can print."""
    readings = {
        name: replace(each, value="nan" if math.isnan(each.value) else each.value)
        for name, each in match.readings.items()
    }
    return replace(match, rule=match.rule.name, readings=readings)


def play(rng, engine, requests):
    """Feed the requests in random pieces, several per call, and collect each one's matches."""
    todo = {
        key: list(zip([0, *cuts[:-1]], cuts, strict=True)) for key, (_, _, cuts) in requests.items()
    }
    found = {key: [] for key in requests}
    while todo:
        keys = [key for key in todo if rng.random() < 0.7] or [next(iter(todo))]
        pieces = [slice(*todo[key].pop(0)) for key in keys]
        todo = {key: rest for key, rest in todo.items() if rest}
        stream = [requests[key][1] for key in keys]
        parts = [[part[piece] for part in each] for each, piece in zip(stream, pieces, strict=True)]
        scores, positions, phases = (np.concatenate(part) for part in zip(*parts, strict=True))
        row_starts = np.cumsum([0, *(piece.stop - piece.start for piece in pieces)])
        for match in engine.observe(keys, row_starts, scores, positions, phases):
            found[match.key].append(match)
    return found


@pytest.mark.parametrize("seed", range(320))
def test_engine_agrees_with_reference(seed, tmp_path):
    rng = np.random.default_rng(seed)
    ruleset, conditions = generate.random_rules(rng, tmp_path, NUM_FEATURES)
    columns = [f"f{i}" for i in rng.permutation(NUM_FEATURES)]
    engine = Engine(ruleset, columns)
    requests = {}
    for number in range(rng.integers(1, 5)):
        length = int(rng.integers(1, 80))
        context = RequestContext(tenant=str(rng.choice(["a", "b"])))
        positions = np.cumsum(rng.integers(1, 3, size=length))
        scores = generate.random_scores(rng, length, NUM_FEATURES)
        stream = (scores, positions, generate.random_phases(rng, length))
        requests[f"r{number}"] = (context, stream, generate.random_cuts(rng, length))
        engine.start(f"r{number}", context)
    found = play(rng, engine, requests)
    for key, (context, stream, _) in requests.items():
        expected = reference.evaluate(ruleset, conditions, key, context, *stream, columns)
        assert list(map(same, found[key])) == list(map(same, expected))
        totals = {count.rule.name: count.matches for count in engine.finish(key)}
        names = [match.rule.name for match in expected]
        assert totals == {name: names.count(name) for name in names}
