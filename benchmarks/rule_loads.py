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

# Thresholds that exponential scores of mean 1 reach where a feature is on much of the time.
_SIGNALS: Sequence[dict[str, Any]] = (
    {"agg": "value", "gte": 5.0},
    {"agg": "max", "window": "32 tokens", "gte": 6.0},
    {"agg": "count", "over": 2.0, "window": "32 tokens", "gte": 4},
    {"agg": "mean", "window": "16 tokens", "gte": 0.8},
    {"agg": "sum", "window": "64 tokens", "gte": 16.0},
    {"agg": "ema", "half_life": "8 tokens", "gte": 0.8},
    {"agg": "rolling_mean_max", "rolling": "8 tokens", "window": "32 tokens", "gte": 1.2},
    {"agg": "topk_mean", "k": 4, "window": "64 tokens", "gte": 3.0},
    {"agg": "min_evidence", "k": 3, "window": "24 tokens", "gte": 2.5},
    {"agg": "noisy_or", "zero": 1.0, "one": 8.0, "window": "48 tokens", "gte": 0.9},
)
_SHAPES: Sequence[dict[str, Any]] = (
    {"condition": "a and b"},
    {"condition": "a or b"},
    {"condition": "a and b", "for": "4 tokens", "keep_firing_for": "16 tokens"},
    {"condition": "a and not b"},
    {"sequence": {"steps": [{"when": "a"}, {"when": "b"}], "within": "512 tokens"}},
)


def make_rules(folder: Path, num_rules: int) -> RuleSet:
    """Rules of two signals, of 640 signals in all that they can share."""
    rules = [
        {
            "id": str(UUID(int=i)),
            "name": f"rule_{i}",
            "title": f"Rule {i}",
            "status": "test",
            "severity": "low",
            "signals": {"a": _signal(i, 0), "b": _signal(i, 1)},
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


def _signal(rule: int, number: int) -> dict[str, Any]:
    kind = (rule + rule // 10 + number * 3) % len(_SIGNALS)
    return {"feature": f"f{(rule * 7 + number * 29) % NUM_FEATURES}", **_SIGNALS[kind]}


def sparse_scores(rng: np.random.Generator, num_requests: int, num_tokens: int) -> Scores:
    """[requests, tokens, features], like an SAE's: 2 % are not zero, exponential, of mean 1.

    In each request one stretch in fifty, of 64 tokens, is bad: there eight features are on half of
    the time and twice as strong.
    """
    shape = num_requests, num_tokens, NUM_FEATURES
    scores = rng.standard_exponential(shape, np.float32)
    share = np.full(shape, 0.02, np.float32)
    num_stretches = -(-num_tokens // 64)
    bad = np.argwhere(rng.random((num_requests, num_stretches)) < 0.02)
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
