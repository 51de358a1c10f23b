"""Files of probes with heads, and what torch makes of the same tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from saeguard.integrations.probes import (
    Angle,
    Attention,
    Linear,
    Mlp,
    MultiMax,
    Probe,
    Subspace,
    write_probe_file,
)
from saeguard.monitor import watchlist as wl
from saeguard.monitor.compile import compile_watchlist
from saeguard.rules import load_rules

HOOK_POINT = "blocks.1.hook_resid_post"
_TORCH_ACTIVATIONS = {
    "relu": torch.relu,
    "silu": torch.nn.functional.silu,
    "gelu": torch.nn.functional.gelu,
    "gelu_tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
}


def random_probes(d_model: int, seed: int = 0) -> dict[str, Probe]:
    """One of each kind, and of each activation."""
    rng = np.random.default_rng(seed)

    def random(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)

    def hidden(num_units: int) -> dict[str, np.ndarray]:
        return {"hidden_weight": random(num_units, d_model), "hidden_bias": random(num_units)}

    plane = np.linalg.qr(rng.standard_normal((d_model, 3)))[0].T
    return {
        "line": Probe(Linear(), {"weight": random(d_model), "bias": random(1)}),
        "relu": Probe(Mlp("relu"), {**hidden(6), "weight": random(1, 6), "bias": random(1)}),
        "silu": Probe(Mlp("silu"), {**hidden(5), "weight": random(5), "bias": random(1)}),
        "gelu": Probe(Mlp("gelu"), {**hidden(4), "weight": random(4), "bias": random(1)}),
        "gelu_tanh": Probe(Mlp("gelu_tanh"), {**hidden(4), "weight": random(4)}),
        "attention": Probe(
            Attention("request"),
            {"query": 8 * random(2, d_model), "value": random(2, d_model), "bias": random(1)},
        ),
        "attention_in_phase": Probe(
            Attention(), {"query": 8 * random(1, d_model), "value": random(1, d_model)}
        ),
        "deep_attention": Probe(
            Attention("request", "gelu"),
            {**hidden(5), "query": 8 * random(3, 5), "value": random(3, 5), "bias": random(1)},
        ),
        "multimax": Probe(MultiMax("request"), {"value": random(3, d_model), "bias": random(1)}),
        "deep_multimax": Probe(MultiMax(activation="relu"), {**hidden(4), "value": random(2, 4)}),
        "energy": Probe(Subspace(), {"weight": random(3, d_model), "bias": random(3)}),
        "share": Probe(Subspace(normalised=True), {"weight": plane}),
        "angle": Probe(Angle(), {"weight": random(2, d_model), "bias": random(2)}),
    }


def write_rules_of(directory: Path, probes: dict[str, Probe]) -> Path:
    """The probes' file, and one rule that reads all of them."""
    write_probe_file(directory / "probes.safetensors", HOOK_POINT, probes)
    rule = {
        "id": "00000000-0000-4000-8000-000000000001", "name": "any", "title": "Any",
        "status": "test", "severity": "low", "condition": " or ".join(f"s_{n}" for n in probes),
        "signals": {f"s_{n}": {"feature": n, "agg": "value", "gt": -1e6} for n in probes},
        "scope": {"phase": ["system", "prompt", "reasoning", "answer", "tool_call"]},
    }  # fmt: skip
    rules = {
        "version": 1,
        "ruleset": {"name": "heads", "version": "1"},
        "features": {name: {"probe": {"path": "probes.safetensors"}} for name in probes},
        "rules": [rule],
    }
    path = directory / "rules.yaml"
    path.write_text(yaml.safe_dump(rules))
    return path


def compiled(directory: Path, probes: dict[str, Probe]) -> wl.Watchlist:
    return compile_watchlist(load_rules([write_rules_of(directory, probes)]))


def torch_scores(probe: Probe, x: np.ndarray, phases: np.ndarray) -> np.ndarray:
    """Of all tokens of one request: [tokens, d_model] -> [tokens], each from those up to it."""
    tensors = {name: torch.tensor(t, dtype=torch.float64) for name, t in probe.tensors.items()}
    y = torch.tensor(x, dtype=torch.float64)
    kind: Any = probe.kind
    bias = tensors.get("bias", torch.zeros(1, dtype=torch.float64))
    if getattr(kind, "activation", None):
        layer = y @ tensors["hidden_weight"].T + tensors["hidden_bias"]
        y = _TORCH_ACTIVATIONS[kind.activation](layer)
    match kind:
        case Linear() | Mlp():
            scores = y @ tensors["weight"].reshape(-1) + bias
        case Attention() | MultiMax():
            begins = _begins(phases) if kind.over == "phase" else np.zeros(len(x), int)
            scores = torch.stack(
                [
                    _pooled(kind, tensors, y[begin : t + 1]) + bias[0]
                    for t, begin in enumerate(begins)
                ]
            )
        case Subspace():
            scores = (y @ tensors["weight"].T + tensors.get("bias", 0.0)).square().sum(dim=1)
            if kind.normalised:
                scores = scores / y.square().sum(dim=1)
        case Angle():
            first, second = (y @ tensors["weight"].T + tensors.get("bias", 0.0)).unbind(1)
            scores = torch.rad2deg(torch.atan2(second, first))
    return scores.numpy()


def _begins(phases: np.ndarray) -> np.ndarray:
    """The row with which each row's phase run begins."""
    is_first = np.append(True, phases[1:] != phases[:-1])
    return np.maximum.accumulate(np.where(is_first, np.arange(len(phases)), 0))


def _pooled(kind: Attention | MultiMax, tensors: dict[str, torch.Tensor], y: torch.Tensor):
    values = y @ tensors["value"].T
    if isinstance(kind, MultiMax):
        return values.amax(dim=0).sum()
    return ((y @ tensors["query"].T).softmax(dim=0) * values).sum()
