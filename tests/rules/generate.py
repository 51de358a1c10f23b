"""Random rules, streams and ways to cut streams, for comparing the engine with the reference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml

from saeguard.rules import Phase, RuleSet, load_rules

Rng = np.random.Generator
PHASE_NAMES = [str(phase) for phase in Phase]


def random_rules(rng: Rng, folder: Path, num_features: int) -> tuple[RuleSet, dict[str, str]]:
    """A rule set and the text of each rule's condition."""
    features = {f"f{i}": {"sae": {"path": "sae"}, "index": i} for i in range(num_features)}
    rules = [_rule(rng, i, list(features)) for i in range(rng.integers(1, 7))]
    path = folder / "rules.yaml"
    ruleset = {"name": "random", "version": "1"}
    data = {"version": 1, "ruleset": ruleset, "features": features, "rules": rules}
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return load_rules([path]), {rule["name"]: rule["condition"] for rule in rules}


def _rule(rng: Rng, number: int, features: list[str]) -> dict:
    signals = {f"s{i}": _signal(rng, features) for i in range(rng.integers(1, 4))}
    scope = {"phase": _some(rng, PHASE_NAMES)}
    if rng.random() < 0.3:
        scope["tenant"] = ["a"]
    return {
        "id": f"00000000-0000-0000-0000-{number:012d}",
        "name": f"rule_{number}",
        "title": "Random",
        "status": "test",
        "severity": "low",
        "scope": scope,
        "signals": signals,
        "condition": _condition(rng, list(signals)),
        "for": f"{rng.choice([1, 1, 2, 3])} tokens",
        "limit": {"max": int(rng.integers(1, 4))},
    }


def _signal(rng: Rng, features: list[str]) -> dict:
    agg = str(rng.choice(["value", "max", "mean", "count", "ema"]))
    signal: dict = {"feature": str(rng.choice(features)), "agg": agg}
    if agg == "ema":
        signal["half_life"] = f"{rng.integers(1, 6)} tokens"
    elif agg != "value":
        signal["window"] = f"{rng.integers(1, 13)} tokens"
    if agg == "count":
        signal["over"] = float(rng.choice([0.0, 0.5, 0.3]))
    # Few distinct values, so that scores meet thresholds exactly.
    threshold = rng.integers(0, 5) if agg == "count" else rng.integers(-2, 5) / 4
    return signal | {str(rng.choice(["gt", "gte", "lt", "lte"])): float(threshold)}


def _condition(rng: Rng, names: list[str]) -> str:
    if len(names) == 1:
        return f"not {names[0]}" if rng.random() < 0.3 else names[0]
    cut = int(rng.integers(1, len(names)))
    word = rng.choice(["and", "or"])
    text = f"({_condition(rng, names[:cut])} {word} {_condition(rng, names[cut:])})"
    return f"not {text}" if rng.random() < 0.2 else text


def _some(rng: Rng, options: list[str]) -> list[str]:
    chosen = rng.permutation(options)[: rng.integers(1, len(options) + 1)]
    return [str(each) for each in chosen]


def random_scores(rng: Rng, num_tokens: int, num_features: int) -> np.ndarray:
    """Quarters (or any float32), with NaN holes: single scores, and whole tokens."""
    scores = rng.normal(size=(num_tokens, num_features)).astype(np.float32)
    if rng.random() < 0.7:
        scores = np.round(scores * 4) / 4
    hole_rate = rng.choice([0.0, 0.1, 0.4])
    scores[rng.random(scores.shape) < hole_rate] = np.nan
    scores[rng.random(num_tokens) < hole_rate] = np.nan
    return scores


def random_phases(rng: Rng, num_tokens: int) -> np.ndarray:
    changes = rng.random(num_tokens) < rng.choice([0.02, 0.1, 0.3])
    codes = rng.integers(0, len(Phase), size=num_tokens)
    return codes[np.maximum.accumulate(np.where(changes, np.arange(num_tokens), 0))].astype(
        np.uint8
    )


def random_cuts(rng: Rng, num_tokens: int) -> list[int]:
    """Ends of pieces, the last one being the end of the stream: tokens, small or large pieces."""
    longest = int(rng.choice([1, 4, 40]))
    ends = np.cumsum(rng.integers(1, longest + 1, size=num_tokens))
    return [*ends[ends < num_tokens].tolist(), num_tokens]
