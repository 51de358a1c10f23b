"""The rules and scores that `rule_engine.py` measures with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import numpy.typing as npt
import yaml

from saeguard.rules import RuleSet, load_rules

NUM_FEATURES = 64
Scores = npt.NDArray[np.float32]

_KINDS: Sequence[dict[str, Any]] = (
    {"agg": "value"},
    {"agg": "max", "window": "32 tokens"},
    {"agg": "count", "over": 2.0, "window": "32 tokens"},
    {"agg": "mean", "window": "16 tokens"},
    {"agg": "sum", "window": "64 tokens"},
    {"agg": "ema", "half_life": "8 tokens"},
    {"agg": "rolling_mean_max", "rolling": "8 tokens", "window": "32 tokens"},
    {"agg": "topk_mean", "k": 4, "window": "64 tokens"},
    {"agg": "min_evidence", "k": 3, "window": "24 tokens"},
    {"agg": "noisy_or", "zero": 2.0, "one": 8.0, "window": "48 tokens"},
)
# What a bad stretch reaches and the rest seldom does: about four standard deviations.
_THRESHOLDS = {
    "sparse": (6.0, 8.0, 6, 1.0, 24.0, 1.0, 1.5, 4.0, 3.0, 0.9),
    "dense": (4.0, 4.0, 7, 1.0, 32.0, 0.8, 1.5, 3.0, 2.5, 0.9),
}
_SHAPES: Sequence[dict[str, Any]] = (
    {"condition": "a and b"},
    {"condition": "a or b"},
    {"condition": "a and b", "for": "4 tokens", "keep_firing_for": "16 tokens"},
    {"condition": "a and not b"},
    {"sequence": {"steps": [{"when": "a"}, {"when": "b"}], "within": "512 tokens"}},
)


def make_rules(folder: Path, load: str, num_rules: int) -> RuleSet:
    """Rules of two signals, of 640 signals in all that they can share."""
    thresholds = _THRESHOLDS[load]
    rules = [
        {
            "id": str(UUID(int=i)),
            "name": f"rule_{i}",
            "title": f"Rule {i}",
            "status": "test",
            "severity": "low",
            "signals": {"a": _signal(i, 0, thresholds), "b": _signal(i, 1, thresholds)},
        }
        | _SHAPES[i % len(_SHAPES)]
        for i in range(num_rules)
    ]
    features = {f"f{i}": {"sae": {"path": "sae"}, "index": i} for i in range(NUM_FEATURES)}
    ruleset = {"name": "benchmark", "version": "1"}
    path = folder / "rules.yaml"
    data = {"version": 1, "ruleset": ruleset, "features": features, "rules": rules}
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return load_rules([path])


def _signal(rule: int, number: int, thresholds: Sequence[float]) -> dict[str, Any]:
    kind = (rule + rule // 10 + number * 3) % len(_KINDS)
    feature = f"f{(rule * 7 + number * 29) % NUM_FEATURES}"
    return {"feature": feature, **_KINDS[kind], "gte": thresholds[kind]}


def sparse_scores(rng: np.random.Generator, num_requests: int, num_tokens: int) -> Scores:
    """[requests, tokens, features], like an SAE's: 2 % are not zero, exponential, of mean 1.

    One stretch of 64 tokens in 200 is bad: there eight features are on half of the time and twice
    as strong.
    """
    shape = num_requests, num_tokens, NUM_FEATURES
    scores = rng.standard_exponential(shape, np.float32)
    share = np.full(shape, 0.02, np.float32)
    num_stretches = -(-num_tokens // 64)
    bad = np.argwhere(rng.random((num_requests, num_stretches)) < 0.005)
    for request, stretch in bad:
        where = (request, slice(64 * stretch, 64 * stretch + 64))
        on = rng.choice(NUM_FEATURES, 8, replace=False)
        share[(*where, on)] = 0.5
        scores[(*where, on)] *= 2
    scores *= rng.random(shape, np.float32) < share
    return scores


def dense_scores(rng: np.random.Generator, num_requests: int, num_tokens: int) -> Scores:
    """[requests, tokens, features], like those of probes: every score is gaussian."""
    return rng.standard_normal((num_requests, num_tokens, NUM_FEATURES), np.float32)
