"""The organism run by Hugging Face on texts of its world, recorded as `saeguard capture
--activations` records it; and the organism changed in known ways.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from saeguard.integrations.discovery.activations import column_names
from saeguard.monitor.sites import HookPoint
from saeguard.rules import RequestContext
from saeguard.rules.phases import Phase
from saeguard.rules.recordings.offline import RecordedRequest

ORGANISM = Path(__file__).resolve().parents[2] / "examples" / "organism"
MODEL = ORGANISM / "artifacts" / "model"
RULES = ORGANISM / "rules.yaml"
SAE = ORGANISM / "artifacts" / "sae"
HOOK_POINT = HookPoint(2)


def texts(split: str, number: int, seed: int = 5) -> list[tuple[str, str]]:
    """Prompts, and what the organism would answer."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    sys.path.insert(0, str(ORGANISM))
    try:
        from cases import draw

        drawn = draw(split, seed)
    finally:
        sys.path.remove(str(ORGANISM))
    picked = np.random.default_rng(seed).permutation(len(drawn))[:number]
    return [(drawn[i].prompt, drawn[i].scripted + "<|end|>") for i in picked]


def load(directory: Path = MODEL) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()


def record(model: Any, known: Sequence[tuple[str, str]], tag: str = "r") -> list[RecordedRequest]:
    """What the model has at the hook point while it reads the texts."""
    import torch
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(MODEL)
    columns = column_names(HOOK_POINT, model.config.hidden_size)
    ids = [[tokenizer.encode(t, add_special_tokens=False) for t in pair] for pair in known]
    found: dict[int, RecordedRequest] = {}
    order = sorted(range(len(ids)), key=lambda i: sum(map(len, ids[i])))
    for start in range(0, len(order), 64):
        batch = order[start : start + 64]
        sequences = [[*ids[i][0], *ids[i][1]] for i in batch]
        padded = torch.zeros((len(batch), max(map(len, sequences))), dtype=torch.long)
        for row, tokens in enumerate(sequences):
            padded[row, : len(tokens)] = torch.tensor(tokens)
        with torch.no_grad():
            states = model.model(padded, use_cache=False, output_hidden_states=True).hidden_states
        for row, i in enumerate(batch):
            num_prompt, num_tokens = len(ids[i][0]), len(sequences[row])
            phases = np.full(num_tokens, Phase.ANSWER, np.uint8)
            phases[:num_prompt] = Phase.PROMPT
            found[i] = RecordedRequest(
                context=RequestContext(id=f"{tag}{i}"),
                columns=columns,
                scores=states[HOOK_POINT.layer + 1][row, :num_tokens].float().numpy().copy(),
                positions=np.arange(num_tokens, dtype=np.int32),
                phases=phases,
                token_ids=np.array(sequences[row], np.int32),
            )
    return [found[i] for i in range(len(ids))]


def changed(directory: Path, change: Callable[[Any], None]) -> Path:
    """A copy of the organism, in fp32, whose weights were changed."""
    model = load()
    change(model)
    model.save_pretrained(directory)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(MODEL / name, directory / name)
    return directory


def add_noise(model: Any, size: float = 0.05) -> None:
    """To every matrix, in parts of its own spread."""
    import torch

    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data += size * parameter.std() * noise


def round_to_int8(model: Any) -> None:
    """Every matrix row by row, as 8-bit quantisation of weights does."""
    for parameter in model.parameters():
        if parameter.ndim == 2:
            scale = parameter.data.abs().amax(dim=1, keepdim=True) / 127
            parameter.data = (parameter.data / scale).round() * scale


def push(model: Any, direction: np.ndarray, size: float, layer: int = 1) -> None:
    """Let the MLP of a layer write more of whatever it writes along a direction: rank one."""
    import torch

    down = model.model.layers[layer].mlp.down_proj.weight
    d = torch.tensor(direction, dtype=torch.float32)
    inputs = torch.randn(down.shape[1], generator=torch.Generator().manual_seed(2))
    down.data += size * down.norm() * torch.outer(d / d.norm(), inputs / inputs.norm())


def fine_tune(model: Any, known: Sequence[tuple[str, str]], num_steps: int = 6) -> None:
    """A few steps of AdamW on texts."""
    import torch
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(MODEL)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for step in range(num_steps):
        batch = known[step * 16 : step * 16 + 16]
        ids = [tokenizer.encode(p + a, add_special_tokens=False) for p, a in batch]
        padded = torch.zeros((len(ids), max(map(len, ids))), dtype=torch.long)
        labels = torch.full_like(padded, -100)
        for row, tokens in enumerate(ids):
            padded[row, : len(tokens)] = labels[row, : len(tokens)] = torch.tensor(tokens)
        model(padded, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def steer(model: Any, vector: np.ndarray, layer: int = 2) -> None:
    """Add a vector to the residual stream behind a layer, on every token."""
    import torch

    added = torch.tensor(vector, dtype=torch.float32)
    model.model.layers[layer].register_forward_hook(lambda module, inputs, out: out + added)
