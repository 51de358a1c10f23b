"""The engine agrees with the naive reference, whatever the rules, the streams and their pieces."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from saeguard.rules import Engine, Match, RuleSet
from tests.rules import generate, reference
from tests.rules.generate import FEATURES, Request

pytestmark = pytest.mark.usefixtures("kernels")
always_the_same = settings(
    max_examples=150,
    derandomize=True,
    phases=(Phase.generate,),
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)


class Traffic:
    """Feeds requests to an engine piece by piece, some of them in each call."""

    def __init__(self, engine: Engine, columns: list[str]) -> None:
        self.engine = engine
        self.order = [FEATURES.index(name) for name in columns]
        self.found: dict[str, list[Match]] = {}

    def send(self, pieces: list[tuple[str, Request, slice]]) -> None:
        parts = [(r.scores[s], r.positions[s], r.phases[s]) for _, r, s in pieces]
        scores, positions, phases = (np.concatenate(part) for part in zip(*parts, strict=True))
        starts = np.cumsum([0, *(piece.stop - piece.start for _, _, piece in pieces)])
        keys = [key for key, _, _ in pieces]
        for match in self.engine.observe(keys, starts, scores[:, self.order], positions, phases):
            self.found[match.key].append(match)

    def play(self, requests: dict[str, Request], rng: np.random.Generator) -> None:
        """Requests begin and end all along, so that slots change hands."""
        waiting = dict(requests)
        live: dict[str, list[slice]] = {}
        while waiting or live:
            while waiting and (len(live) < 2 or rng.random() < 0.3):
                key, request = waiting.popitem()
                self.engine.start(key, request.context)
                self.found[key] = []
                bounds = zip([0, *request.ends], request.ends, strict=False)
                live[key] = [slice(*pair) for pair in bounds]
            keys = [key for key in live if rng.random() < 0.7] or [next(iter(live))]
            self.send([(key, requests[key], live[key].pop(0)) for key in keys])
            for key in [key for key, pieces in live.items() if not pieces]:
                del live[key]
                self.finish(key)

    def finish(self, key: str) -> None:
        names = [match.rule.name for match in self.found[key]]
        totals = {count.rule.name: count.matches for count in self.engine.finish(key)}
        assert totals == {name: names.count(name) for name in names}


def shown(match: Match) -> Match:
    """A match as something `==` can compare, rounding and NaN included, and a failure can print."""
    readings = {
        name: replace(each, value=pytest.approx(each.value, rel=1e-9, abs=1e-9, nan_ok=True))
        for name, each in match.readings.items()
    }
    return replace(match, rule=match.rule.name, readings=readings)


def plain(match: Match) -> Match:
    return replace(match, rule=match.rule.name)


def assert_agrees(ruleset: RuleSet, requests: dict[str, Request], seed: int) -> None:
    rng = np.random.default_rng(seed)
    columns = [str(name) for name in rng.permutation(FEATURES)]
    traffic = Traffic(Engine(ruleset, columns, max_requests=100), columns)
    traffic.play(requests, rng)
    for key, request in requests.items():
        expected = reference.evaluate(
            ruleset,
            key,
            request.context,
            request.scores,
            request.positions,
            request.phases,
            list(FEATURES),
        )
        assert list(map(plain, traffic.found[key])) == list(map(shown, expected))


@always_the_same
@given(
    ruleset=generate.rule_sets(),
    requests=st.lists(generate.requests(), min_size=1, max_size=4),
    seed=st.integers(0, 999),
)
def test_the_engine_agrees_with_the_reference(
    ruleset: RuleSet, requests: list[Request], seed: int
) -> None:
    assert_agrees(ruleset, {f"r{i}": request for i, request in enumerate(requests)}, seed)
