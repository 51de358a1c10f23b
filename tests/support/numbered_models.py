"""Models in which one dimension of the residual stream is the number of the token that was read: no
layer writes to it. A probe reads it, so that a row's score says which token it is of.

Each request has tokens of its own, in its prompt and in its answer, besides what it shares with
others.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file
from tiny_models import D_MODEL, Models, make_adapter, make_model

from saeguard.monitor.messages import Floats

NUM_OWN = 4
"""Tokens that only one request has."""
MAX_REQUESTS = 600
FIRST_OWN = 512
"""Those below are shared."""
VOCAB = FIRST_OWN + NUM_OWN * MAX_REQUESTS
END_OF_TEXT = 1
_NUMBER = 0
"""The dimension."""
DIRECTION = np.eye(1, D_MODEL, _NUMBER)[0]
"""What a probe must read of any layer for `tokens_read`."""


def tokens_read(scores: Floats) -> Floats:
    """By the probe's scores, from 0 to 1; NaN stays."""
    return np.round(scores * VOCAB)


def own_tokens(number: int) -> list[int]:
    """Of the request with that number."""
    first = FIRST_OWN + NUM_OWN * number
    return list(range(first, first + NUM_OWN))


def make_numbered_models(directory: Path) -> Models:
    base = make_model(directory / "base", vocab_size=VOCAB)
    _write_numbers(base)
    adapters, merged = {}, {}
    for seed, name in enumerate(("red", "blue")):
        adapters[name], merged[name] = make_adapter(directory / name, base, seed)
        _keep_numbers(adapters[name] / "adapter_model.safetensors")
        _keep_numbers(merged[name] / "model.safetensors")
    return Models(base, adapters, merged)


def _write_numbers(model: Path) -> None:
    """Into the embedding of every token its number, from 0 to 1."""
    path = model / "model.safetensors"
    tensors = load_file(path)
    tensors["model.embed_tokens.weight"][:, _NUMBER] = np.arange(VOCAB) / VOCAB
    save_file(tensors, path, metadata={"format": "pt"})
    _keep_numbers(path)


def _keep_numbers(path: Path) -> None:
    """Let nothing that a layer adds to the residual stream change it."""
    tensors = load_file(path)
    for name, tensor in tensors.items():
        if ("o_proj" in name or "down_proj" in name) and "lora_A" not in name:
            tensor[_NUMBER] = 0.0
    save_file(tensors, path, metadata={"format": "pt"})
