"""What the rule engine costs: `make bench-rules`. CPU time of one thread, medians over calls.

Measured are tokens per second, their price against the number of rules (drawn as an SVG), and the
memory of 10,000 requests.

50 rules with two signals each over 64 features, all kinds of aggregates in turn with windows of 8
to 64 tokens, conditions with `and`, `or`, `not`, `for`, `keep_firing_for`, and sequences. Two loads
of answer tokens: sparse ones like an SAE's features, which are what the engine is made for, and
gaussian ones like probes', on which little can be skipped; `rule_loads.py` has both. Beside each
figure stands how often a rule matched, for matches are paid for beyond the plain tokens.

With `--numpy` the engine does without its compiled loops, and the results go to files of their own.
"""

from __future__ import annotations

import argparse
import json
import math
import os
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
from saeguard.rules.engine import kernels

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
        positions = np.concatenate(
            [n + np.arange(k) for n, k in zip(self.next, lengths, strict=True)]
        )
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
    "decode": {"num_requests": 256, "longest": 1, "calls": 1000},
    "prefill": {"num_requests": 1, "longest": 2048, "calls": 100},
    "ragged": {"num_requests": 64, "longest": 64, "calls": 60},
}
LOADS: dict[str, Load] = {"sparse": sparse_scores, "dense": dense_scores}


def measure_rates(folder: Path) -> list[Rate]:
    rates = []
    for name, load in LOADS.items():
        ruleset = make_rules(folder, name, 50)
        for shape, sizes in SHAPES.items():
            rates.append(measure(ruleset, name, load, shape, **sizes))
            print(_line(rates[-1]), flush=True)
    return rates


def measure_growth(folder: Path) -> list[Rate]:
    """Decoding with more and more rules, over the same features."""
    rates = []
    for num_rules in (10, 30, 100, 300, 1000):
        ruleset = make_rules(folder, "sparse", num_rules)
        sizes = SHAPES["decode"] | {"calls": 300}
        rates.append(measure(ruleset, "sparse", sparse_scores, "decode", **sizes))
        print(_line(rates[-1]), flush=True)
    return rates


def measure_memory(folder: Path) -> dict[str, float]:
    """10,000 requests, half of them replaced on the way: resident MB."""
    before = _resident_mb()
    traffic = Traffic(make_rules(folder, "sparse", 50), 10_000)
    rng = np.random.default_rng(0)
    scores = [sparse_scores(rng, 1000, 10) for _ in range(10)]
    sizes = {}
    for turn in range(10):
        for key in traffic.keys[: 5000 if turn == 5 else 0]:
            traffic.engine.finish(key)
            traffic.engine.start(key, RequestContext())
        traffic.send([part for block in scores for part in block])
        num_tokens = (turn + 1) * 100_000
        sizes[f"{num_tokens}"] = round(_resident_mb() - before)
        print(f"10,000 requests, {num_tokens:>9,} tokens: {sizes[str(num_tokens)]:>4} MB")
    return sizes


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def _line(rate: Rate) -> str:
    return (
        f"{rate.load:<6} {rate.shape:<8} {rate.num_rules:>4} rules "
        f"{rate.tokens_per_second:>11,.0f} tokens/s {rate.microseconds_per_call:>9,.0f} us/call "
        f"{rate.matches_per_thousand_tokens:6.2f} matches per 1,000 tokens"
    )


def draw_growth(rates: Sequence[Rate]) -> str:
    """Time of a decode step against the number of rules, both on logarithmic axes, as SVG."""

    def x(num_rules: float) -> float:
        return 80 + 200 * math.log10(num_rules / 10)

    def y(microseconds: float) -> float:
        return 280 - 80 * math.log10(microseconds / 100)

    points = [(x(r.num_rules), y(r.microseconds_per_call), r) for r in rates]
    line = " ".join(f"{px:.0f},{py:.0f}" for px, py, _ in points)
    base = rates[0].microseconds_per_call
    marks = "".join(
        f'<circle cx="{px:.0f}" cy="{py:.0f}" r="4" fill="#1f5fa8"/>'
        f'<text x="{px:.0f}" y="{py - 10:.0f}" text-anchor="middle">'
        f"{r.microseconds_per_call / 1000:.2f} ms</text>"
        f'<text x="{px:.0f}" y="300" text-anchor="middle">{r.num_rules}</text>'
        for px, py, r in points
    )
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 540 330" '
        'font-family="sans-serif" font-size="12">\n'
        '<rect width="540" height="330" fill="white"/>\n'
        '<text x="270" y="20" text-anchor="middle" font-size="14">'
        "CPU time of a decode step of 256 tokens, sparse load</text>\n"
        '<text x="270" y="322" text-anchor="middle">rules</text>\n'
        f'<polyline points="{x(10):.0f},{y(base):.0f} {x(1000):.0f},{y(100 * base):.0f}" '
        'fill="none" stroke="#999" stroke-dasharray="4"/>\n'
        f'<text x="{x(300):.0f}" y="{y(30 * base) - 8:.0f}" text-anchor="end" fill="#666">'
        "if it grew with the rules</text>\n"
        f'<polyline points="{line}" fill="none" stroke="#1f5fa8" stroke-width="2"/>'
        f"\n{marks}\n</svg>\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--numpy", action="store_true", help="without the compiled loops")
    if parser.parse_args().numpy:
        kernels.in_use = kernels.NUMPY
    print(f"kernels: {kernels.in_use.name}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        memory = measure_memory(folder)  # first, while nothing else has been freed
        rates, growth = measure_rates(folder), measure_growth(folder)
    stem = "rules_numpy" if kernels.in_use is kernels.NUMPY else "rules"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{stem}_growth.svg").write_text(draw_growth(growth))
    results = {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "kernels": kernels.in_use.name,
        "load_average": os.getloadavg()[0],  # other work slows even CPU time: caches are shared
        "memory_mb_by_tokens": memory,
        "rates": [asdict(rate) for rate in rates],
        "growth": [asdict(rate) for rate in growth],
    }
    (RESULTS / f"{stem}.json").write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
