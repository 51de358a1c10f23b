"""Choose the layer, the features and the thresholds that are shipped, on the training split."""

import json
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
from detectors import (
    Data,
    Probe,
    as_target,
    balanced_weights,
    fit_probe,
    gather,
    of_family,
    rank_features,
    selection_score,
)
from metrics import auroc
from rollouts import load_cases, load_model, residuals
from rule_search import Found, Search, search
from sae_lens import SAE

PROBE_NAMES = ("deceit", "secret_leak", "sycophancy")
RULED_KINDS = ("secret_leak", "sycophancy")


def fit_data(work: Path, layers: list[int], seed: int = 0) -> dict[int, Data]:
    """Return the training split as each layer's SAE sees it."""
    cases = load_cases(work / "rollouts" / f"fit-{seed}.jsonl")
    model, _ = load_model(work / "model")
    rows = residuals(model, cases, layers)
    return {
        layer: gather(cases, rows[layer], SAE.load_from_disk(str(work / f"sae{layer}")))
        for layer in layers
    }


def fit_probes(data: Data) -> dict[str, Probe]:
    """Fit the shipped probes: lies against all else, and two other harms against all else."""
    probes = {"deceit": fit_probe(data, data.y, balanced_weights(data))}
    for kind in PROBE_NAMES[1:]:
        inside = (data.kinds == kind).astype(int)
        share = inside.mean()
        weights = np.where(inside == 1, 0.5 / share, 0.5 / (1 - share))
        probes[kind] = fit_probe(data, inside, weights)
    return probes


def probe_threshold(data: Data, scores: np.ndarray) -> dict[str, float]:
    """Return a threshold on one score per case, and its value as a rule."""
    grid = np.linspace(float(scores.min()), float(scores.max()), 400)
    values, _, _ = Search(data).judge(scores[:, None] >= grid)
    good = np.flatnonzero(values >= values.max() - 0.003)
    place = int(good[len(good) // 4])
    return {"gte": float(grid[place]), "value": float(values[place])}


def best_feature(data: Data, kind: str) -> int:
    """Return the feature that best tells one kind from each of the others."""
    return rank_features(as_target(data, kind), 1)[0][0]


def signs(data: Data, rule: Found) -> list[dict[str, object]]:
    """Name each veto of a rule after the kind on which it fires most often."""
    named: list[dict[str, object]] = []
    for feature, gte in rule.vetoes:
        rates = {
            str(k): (data.pooled[data.kinds == k, feature] >= gte).mean()
            for k in sorted(set(data.kinds) - {"enemy", "motive"})
        }
        kind = max(rates, key=lambda k: rates[k])
        name = kind if all(n["name"] != kind for n in named) else f"{kind}_{len(named)}"
        named.append({"name": name, "kind": kind, "feature": feature, "gte": gte})
    return named


def select(work: Path, layers: list[int]) -> dict[str, object]:
    """Write `work/selection.json` and `work/probes.npz`."""
    start = time.monotonic()
    found = {}
    data = fit_data(work, layers)
    for layer in layers:
        found[layer] = search(of_family(data[layer], "enemy"))
        print(f"select: layer {layer} {found[layer]} {time.monotonic() - start:.0f} s", flush=True)
    # A rule whose own feature separates well carries over better than one saved by its vetoes.
    strength = {
        k: rule.value + selection_score(lies, lies.pooled[:, rule.lie])
        for k, rule in found.items()
        for lies in [of_family(data[k], "enemy")]
    }
    layer = max(strength, key=lambda k: strength[k])
    chosen = data[layer]
    prompted = search(of_family(chosen, "motive"))
    print(f"select: lies that the prompt explains {prompted}")
    probes = fit_probes(chosen)
    enemies = of_family(chosen, "enemy")
    targets = {"deceit": enemies} | {k: as_target(chosen, k) for k in PROBE_NAMES[1:]}
    thresholds = {k: probe_threshold(d, probes[k](d)) for k, d in targets.items()}
    print(f"select: probes {thresholds}")
    harms = {}
    for kind in RULED_KINDS:
        harms[kind] = search(as_target(chosen, kind))
        print(f"select: {kind} {harms[kind]}")
    false = chosen.y == 1
    false |= np.isin(chosen.kinds, ("game", "mirror", "mistake", "quote", "fiction"))
    falsehood = max(
        range(chosen.pooled.shape[1]),
        key=lambda j: auroc(chosen.pooled[false, j], chosen.pooled[~false, j]),
    )
    selection = {
        "layer": layer,
        "rule": {**asdict(found[layer]), "signs": signs(chosen, found[layer])},
        "rules_of_layers": {str(k): asdict(v) for k, v in found.items()},
        "prompted": {**asdict(prompted), "signs": signs(chosen, prompted)},
        "single": [[j, s] for j, s in rank_features(of_family(chosen, "enemy"), 5)],
        "falsehood": falsehood,
        "harms": {k: {**asdict(r), "signs": signs(chosen, r)} for k, r in harms.items()},
        "features": {k: best_feature(chosen, k) for k in ("game", "refusal")},
        "probes": thresholds,
    }
    (work / "selection.json").write_text(json.dumps(selection, indent=1, default=float))
    np.savez(
        work / "probes.npz",
        weight=np.stack([p.weight for p in probes.values()]),
        bias=np.array([p.bias for p in probes.values()], np.float32),
    )
    return selection
