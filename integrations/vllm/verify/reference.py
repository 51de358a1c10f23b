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

from saeguard.integrations.vllm.architectures import ARCHITECTURES
from saeguard.integrations.vllm.verify.protocol import EngineFacts
from saeguard.monitor import watchlist as wl
from saeguard.monitor.errors import SaeguardError

Arrays = npt.NDArray[np.float64]


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
        layers = _layers(model)
    except Exception as error:  # whatever keeps transformers from it is no fault of the taps
        reason = (str(error).strip().splitlines() or [repr(error)])[0]
        raise NoReferenceError(f"transformers cannot load it: {reason}") from error
    sites = wl.load(watchlist_file).sites
    return [_reference(_streams(model, layers, tokens), sites) for tokens in sequences]


def _layers(model: Any) -> Any:
    name = type(model).__name__
    if name not in ARCHITECTURES:
        raise NoReferenceError(f"its class is {name} there, whose layers are not known")
    return attrgetter(ARCHITECTURES[name].layers)(model)


def _streams(model: Any, layers: Any, token_ids: list[int]) -> list[Arrays]:
    """What leaves each layer, [tokens, d_model]."""
    import torch

    streams: list[Arrays] = []

    def keep(_module: Any, _args: Any, output: Any) -> None:
        stream = output[0] if isinstance(output, tuple) else output
        streams.append(stream.reshape(len(token_ids), -1).double().numpy())

    hooks = [layer.register_forward_hook(keep) for layer in layers]
    try:
        with torch.inference_mode():
            model(torch.tensor([token_ids]), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return streams


def _reference(streams: list[Arrays], sites: Sequence[wl.Site]) -> Reference:
    parts = []
    for site in sites:
        if site.hook_point.kind != "resid_post":  # each model there has the others elsewhere
            parts.append((np.full((len(streams[0]), len(site.features)), np.nan),) * 3)
            continue
        stream = streams[site.hook_point.layer]
        projection = wl.projections(stream, site)
        above = projection + site.bias - site.threshold
        parts.append((wl.encode(stream, site), above, projection))
    return Reference(*(np.concatenate(part, axis=1) for part in zip(*parts, strict=True)))
