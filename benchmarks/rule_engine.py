"""What the rule engine costs: `make bench-rules`. CPU time of one thread, medians over calls.

50 rules with two signals each over 64 features, all kinds of aggregates in turn with windows of 8
to 64 tokens, conditions with `and`, `or`, `not`, `for`, `keep_firing_for`, and sequences. Two loads
of answer tokens: sparse ones like an SAE's features, which are what the engine is made for, and
gaussian ones like probes', on which little can be skipped. Beside each figure stands how often a
rule matched, for matches are paid for beyond the plain tokens.
"""

from __future__ import annotations

import json
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rule_loads import Scores, dense_scores, make_rules, sparse_scores

from saeguard.rules import Engine, Phase, RequestContext, RuleSet

RESULTS = Path(__file__).with_name("results")
WARM_UP_TOKENS = 128  # of each request: windows are full when the clock starts
Load = Callable[[np.random.Generator, int, int], Scores]


@dataclass(frozen=True)
class Rate:
    """Of one load in one shape."""

    load: str
    shape: str
    num_rules: int
    tokens_per_second: float
    microseconds_per_call: float
    matches_per_thousand_tokens: float


class Traffic:
    """Requests that go on token by token, in calls of any size."""

    def __init__(self, ruleset: RuleSet, num_requests: int) -> None:
        self.engine = Engine(ruleset, [f"f{i}" for i in range(64)], max_requests=num_requests)
        self.keys = [f"request-{i}" for i in range(num_requests)]
        self.next = np.zeros(num_requests, np.int64)
        for key in self.keys:
            self.engine.start(key, RequestContext())

    def send(self, pieces: Sequence[Scores]) -> tuple[float, int]:
        """The next scores of every request: seconds, and how many rules matched."""
        lengths = np.array([len(piece) for piece in pieces])
        starts = np.concatenate(([0], np.cumsum(lengths)))
        positions = np.concatenate([n + np.arange(k) for n, k in zip(self.next, lengths, strict=True)])
        scores = np.concatenate(pieces)
        phases = np.full(len(scores), Phase.ANSWER, np.uint8)
        self.next += lengths
        begin = time.process_time()
        matches = self.engine.observe(self.keys, starts, scores, positions, phases)
        return time.process_time() - begin, len(matches)


def measure(
    ruleset: RuleSet, name: str, load: Load, shape: str, num_requests: int, longest: int, calls: int
) -> Rate:
    """Calls in which each request brings `longest` tokens, or 1 to `longest` if it is ragged."""
    rng = np.random.default_rng(0)
    traffic = Traffic(ruleset, num_requests)
    traffic.send(list(load(rng, num_requests, WARM_UP_TOKENS)))
    stream = load(rng, num_requests, longest * calls)
    rates, seconds, num_tokens, num_matches = [], [], 0, 0
    for call in range(calls):
        part = stream[:, longest * call : longest * (call + 1)]
        lengths = rng.integers(1, longest + 1, num_requests) if shape == "ragged" else None
        pieces = [p[: lengths[i]] if lengths is not None else p for i, p in enumerate(part)]
        took, matches = traffic.send(pieces)
        size = sum(map(len, pieces))
        rates.append(size / took)
        seconds.append(took)
        num_tokens += size
        num_matches += matches
    return Rate(
        name,
        shape,
        len(ruleset.rules),
        statistics.median(rates),
        statistics.median(seconds) * 1e6,
        1000 * num_matches / num_tokens,
    )


SHAPES = {
    "decode": dict(num_requests=256, longest=1, calls=1000),
    "prefill": dict(num_requests=1, longest=2048, calls=100),
    "ragged": dict(num_requests=64, longest=64, calls=60),
}
LOADS: dict[str, Load] = {"sparse": sparse_scores, "dense": dense_scores}
