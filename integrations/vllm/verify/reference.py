"""What the scores should be, by Hugging Face: an implementation of the model that has nothing in
common with vLLM's.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from saeguard.integrations.vllm.architectures import ARCHITECTURES, Part
from saeguard.integrations.vllm.verify.protocol import EngineFacts
from saeguard.monitor import watchlist as wl
from saeguard.monitor.errors import SaeguardError
from saeguard.monitor.sites import HookPoint

Arrays = npt.NDArray[np.float64]

_NAMES = {"block_sparse_moe": "mlp"}
"""vLLM's name of a module -> Hugging Face's, where they differ."""


class NoReferenceError(SaeguardError):
    """Hugging Face transformers cannot run this model here."""


@dataclass(frozen=True, slots=True)
class Reference:
    """Of one sequence of tokens, by a forward pass in float32 and the formula in float64."""

    scores: Arrays  # [tokens, columns]
    above: Arrays  # [tokens, columns]: by how much the gate is open, negative where it is closed
    projections: Arrays  # [tokens, columns]: without the bias, the scale of rounding errors


def references(
    facts: EngineFacts, watchlist_file: Path, sequences: Sequence[list[int]]
) -> list[Reference]:
    """Computed in a process of its own: a model that does not fit into memory may end it.

    Raises:
        NoReferenceError: and why.
    """
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        try:
            return process.submit(compute, facts, watchlist_file, list(sequences)).result()
        except BrokenProcessPool as error:
            raise NoReferenceError(
                "the process that ran it with transformers was ended: too little memory?"
            ) from error


def compute(
    facts: EngineFacts, watchlist_file: Path, sequences: list[list[int]]
) -> list[Reference]:
    """In this process."""
    try:
        import torch
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

        logging.disable_progress_bar()
        model = AutoModelForCausalLM.from_pretrained(
            facts.model,
            revision=facts.revision,
            trust_remote_code=facts.trust_remote_code,
            dtype=torch.float32,
            attn_implementation="eager",  # the others leave out Gemma 2's soft cap
        ).eval()
        sites = wl.load(watchlist_file).sites
        readings = _readings(model, [site.hook_point for site in sites])
    except Exception as error:  # whatever keeps transformers from it is no fault of the taps
        reason = (str(error).strip().splitlines() or [repr(error)])[0]
        raise NoReferenceError(f"transformers cannot load it: {reason}") from error
    return [
        _reference(_inputs(model, readings, tokens), sites, len(tokens)) for tokens in sequences
    ]


def _readings(model: Any, hook_points: Sequence[HookPoint]) -> dict[HookPoint, tuple[Any, bool]]:
    """The module of each, and whether it is read before it."""
    name = type(model).__name__
    if name not in ARCHITECTURES:
        raise NoReferenceError(f"its class is {name} there, whose layers are not known")
    entry = ARCHITECTURES[name]
    layers = attrgetter(entry.layers)(model)
    readings = {}
    for hook_point in hook_points:
        if hook_point.kind == "router":  # not asked of Hugging Face: each model has it elsewhere
            continue
        layer, reading = layers[hook_point.layer], entry.inside.get(hook_point.kind)
        if reading is None:
            readings[hook_point] = layer, False
        else:  # Hugging Face's norms do not add: what vLLM's add up is what goes into theirs
            module = attrgetter(_NAMES.get(reading.path, reading.path))(layer)
            readings[hook_point] = module, reading.part in (Part.INPUT, Part.SECOND)
    return readings


def _inputs(
    model: Any, readings: dict[HookPoint, tuple[Any, bool]], token_ids: list[int]
) -> dict[HookPoint, Arrays]:
    """What is read at each, [tokens, inputs]."""
    import torch

    inputs: dict[HookPoint, Arrays] = {}

    def keep(hook_point: HookPoint, is_before: bool) -> Any:
        def hook(_module: Any, args: Any, output: Any) -> None:
            value = args if is_before else output
            value = value[0] if isinstance(value, tuple) else value
            inputs[hook_point] = value.reshape(len(token_ids), -1).double().numpy()

        return hook

    hooks = [
        module.register_forward_hook(keep(hook_point, is_before))
        for hook_point, (module, is_before) in readings.items()
    ]
    try:
        with torch.inference_mode():
            model(torch.tensor([token_ids]), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return inputs


def _reference(
    inputs: dict[HookPoint, Arrays], sites: Sequence[wl.Site], num_tokens: int
) -> Reference:
    parts = []
    for site in sites:
        x = inputs.get(site.hook_point)
        if x is None:
            parts.append((np.full((num_tokens, len(site.features)), np.nan),) * 3)
            continue
        projection = wl.projections(x, site)
        above = projection + site.bias - site.threshold
        parts.append((wl.encode(x, site), above, projection))
    return Reference(*(np.concatenate(part, axis=1) for part in zip(*parts, strict=True)))
