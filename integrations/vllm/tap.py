"""The tap: one custom op per watched site, inside the compiled graph.

A forward hook on a module below the compiled model is traced into the graph and runs on every
step. The op reads only buffers, so that other rules need no other graph: a watchlist of the same
sites fits without recompiling as long as it stays within the capacity.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from vllm.distributed import get_tensor_model_parallel_world_size

from saeguard.integrations.vllm import op
from saeguard.integrations.vllm.architectures import (
    Architecture,
    Part,
    architecture_of,
    tapped,
    value_of,
)
from saeguard.integrations.vllm.routers import Routing, router_of
from saeguard.integrations.vllm.tap_rows import capacity_for, filled, is_scaled, norms_of
from saeguard.monitor.errors import UnsupportedError
from saeguard.monitor.watchlist import Site, Watchlist


@dataclass(frozen=True, slots=True)
class Tap:
    """The buffers of one tapped site, on the model's device."""

    site: Site
    module: nn.Module
    """Whose calls are tapped."""
    part: Part
    rows: torch.Tensor  # [capacity, inputs] fp32, or [2 * capacity, inputs] as hi + lo halves
    bias: torch.Tensor  # [capacity]
    threshold: torch.Tensor  # [capacity], +inf in unused rows: their score is 0
    norm: torch.Tensor | None  # [capacity] int64, which of `NORMS`; None: the graph has none
    scores: torch.Tensor  # [max_tokens, capacity] fp32; NaN until the graph has written it
    calls: torch.Tensor  # [1] int64: how often the op has run
    routing: Routing | None = None
    """Of a router's site."""

    @property
    def width(self) -> int:
        return len(self.site.features)


def make_taps(model: nn.Module, sites: Sequence[Site], max_tokens: int) -> list[Tap]:
    """The buffers for every site; the model is not touched.

    Raises:
        UnsupportedError: the architecture, a layer or a router does not fit.
    """
    op.register()
    entry = architecture_of(model)
    return [_make_tap(model, entry, site, max_tokens) for site in sites]


def columns_of(taps: Sequence[Tap], watchlist: Watchlist) -> list[int]:
    """Which of the watchlist's columns the taps' scores are."""
    columns = {name: column for column, name in enumerate(watchlist.columns)}
    return [columns[feature.name] for tap in taps for feature in tap.site.features]


def hook(taps: list[Tap]) -> None:
    """Put the op into the model. Must precede the first forward pass; nothing may fail after it,
    or the graph would have taps that the compile cache does not know of.
    """
    for tap in taps:
        # In the model: sleep mode saves and restores its buffers.
        name = f"saeguard_{tap.site.hook_point.kind}"
        tap.module.add_module(name, _buffers(tap))
        make_hook = _tap_stream if tap.routing is None else _tap_gate
        tap.module.register_forward_hook(make_hook(tap, name))


def _buffers(tap: Tap) -> nn.Module:
    """What the compiled graph reads and writes."""
    buffers = nn.Module()
    for name in ("rows", "bias", "threshold", "norm", "scores", "calls"):
        buffers.register_buffer(name, getattr(tap, name), persistent=False)
    choice_bias = tap.routing and tap.routing.choice_bias
    buffers.register_buffer("choice_bias", choice_bias, persistent=False)
    return buffers


def _tap_stream(tap: Tap, name: str) -> Callable[[Any, Any, Any], None]:
    part = tap.part

    def tap_stream(module: Any, args: Any, output: Any) -> None:
        buffers = getattr(module, name)
        torch.ops.saeguard.tap(
            value_of(part, args, output),
            buffers.rows,
            buffers.bias,
            buffers.threshold,
            buffers.norm,
            buffers.scores,
            buffers.calls,
        )

    return tap_stream


def _tap_gate(tap: Tap, name: str) -> Callable[[Any, Any, Any], None]:
    """The hook of a gate, whose output are logits, or a tuple that begins with them."""
    assert tap.routing is not None
    routing = tap.routing
    top_k, is_sigmoid, renormalize = routing.top_k, routing.is_sigmoid, routing.renormalize

    def tap_logits(module: Any, args: Any, output: Any) -> None:
        buffers = getattr(module, name)
        torch.ops.saeguard.tap_router(
            output[0] if isinstance(output, tuple) else output,
            buffers.choice_bias,
            top_k,
            is_sigmoid,
            renormalize,
            buffers.rows,
            buffers.bias,
            buffers.threshold,
            buffers.scores,
            buffers.calls,
        )

    return tap_logits


def snapshot(taps: Sequence[Tap], num_tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Copies of a step's scores, [num_tokens, features], and of how often each tap has run, [taps];
    made on the current stream.

    Raises:
        RuntimeError: more tokens than the buffers have rows, so the op has left some out.
    """
    num_rows = len(taps[0].scores)
    if num_tokens > num_rows:
        raise RuntimeError(f"a step of {num_tokens} tokens, and buffers of {num_rows} rows")
    scores = torch.cat([tap.scores[:num_tokens, : tap.width] for tap in taps], dim=1)
    return scores, torch.cat([tap.calls for tap in taps])


def layout_digest(taps: list[Tap]) -> str:
    """What the compiled graph depends on, for vLLM's compile cache: hooks are not part of its
    key.
    """
    layout = [
        {
            "site": str(tap.site.hook_point),
            "rows": list(tap.rows.shape),
            "dtype": str(tap.rows.dtype),
            "norm": tap.norm is not None,
            "scores": list(tap.scores.shape),
            "routing": tap.routing and tap.routing.layout,
        }
        for tap in taps
    ]
    return hashlib.sha256(json.dumps([op.VERSION, layout]).encode()).hexdigest()


def _make_tap(model: nn.Module, entry: Architecture, site: Site, max_tokens: int) -> Tap:
    parameter = next(model.parameters())
    device, dtype, num_inputs = parameter.device, parameter.dtype, site.weight.shape[1]
    routing = None
    module: Any
    if site.hook_point.kind == "router":
        router = router_of(model, entry, site.hook_point)
        module, part, routing = router.gate, Part.OUTPUT, router.routing
        # In fp32: what a router says is not of the model's 16 bits.
        dtype, num_inputs = torch.float32, 2 * routing.num_experts
    else:
        module, part = tapped(model, entry, site.hook_point)
    if site.hook_point.kind == "attn_z":
        if get_tensor_model_parallel_world_size() > 1:
            raise UnsupportedError(
                f"the watchlist watches {site.hook_point}, and tensor parallel workers each have "
                "only some of the heads",
                "serve without tensor parallelism, or watch hook_attn_out",
            )
        num_inputs = module.input_size
    capacity = capacity_for(len(site.features))
    return Tap(
        site,
        module,
        part,
        *filled(site, capacity, num_inputs, device, dtype),
        norm=norms_of(site, capacity, device) if is_scaled(site) else None,
        scores=torch.full((max_tokens, capacity), torch.nan, device=device),
        calls=torch.zeros(1, dtype=torch.int64, device=device),
        routing=routing,
    )
