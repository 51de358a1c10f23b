"""The tap: one custom op per watched site, inside the compiled graph.

A forward hook on a module below the compiled model is traced into the graph and runs on every
step. The op reads only buffers, so that other rules need no other graph: a watchlist of the same
sites fits without recompiling as long as it stays within the capacity.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
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
from saeguard.monitor.errors import UnsupportedError
from saeguard.monitor.watchlist import NORMS, Site, Watchlist

_CAPACITY_STEP = 64


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


def capacity_for(num_features: int) -> int:
    """Rows of a layer's buffers. The spare ones are for later watchlists."""
    return -(-num_features // _CAPACITY_STEP) * _CAPACITY_STEP


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


def refill(taps: Sequence[Tap], watchlist: Watchlist, elsewhere: Sequence[Site] = ()) -> list[Tap]:
    """These taps with the rows of another watchlist, in tensors of their own on the same device;
    the buffers in use are not touched. A site that it does not watch gets no features.

    Args:
        elsewhere: what other stages of the pipeline tap.

    Raises:
        UnsupportedError: it does not fit into the buffers that the running graph reads.
    """
    sites = {site.hook_point: site for site in watchlist.sites}
    tapped = {site.hook_point for site in (*(tap.site for tap in taps), *elsewhere)}
    for needed in sites:
        if needed not in tapped:
            raise UnsupportedError(
                f"the watchlist needs {needed.place}, and the running graph taps only "
                f"{', '.join(hook_point.place for hook_point in sorted(tapped))}",
                "restart the server",
            )
    return [_refilled(tap, sites.get(tap.site.hook_point) or _emptied(tap.site)) for tap in taps]


def overwrite(taps: Sequence[Tap], new: Sequence[Tap]) -> list[Tap]:
    """Copy refilled rows into the buffers in use, on the current stream, without waiting: whatever
    that stream runs later reads the new ones.
    """
    with torch.inference_mode():  # the buffers may have been made in it
        for tap, source in zip(taps, new, strict=True):
            _copy(source.rows, tap.rows)
            _copy(source.bias, tap.bias)
            _copy(source.threshold, tap.threshold)
            if source.norm is not None and tap.norm is not None:
                _copy(source.norm, tap.norm)
    return [replace(tap, site=source.site) for tap, source in zip(taps, new, strict=True)]


def _copy(source: torch.Tensor, target: torch.Tensor) -> None:
    target.copy_(source, non_blocking=True)
    if source.is_cuda:  # made on another stream: not to be freed before the copy has run
        source.record_stream(torch.cuda.current_stream(source.device))


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


def self_test(taps: list[Tap]) -> None:
    """Run the op on each site's golden inputs, on this device, without touching the live buffers.

    Raises:
        UnsupportedError: a gate flips, or a score is off by more than the arithmetic explains.
    """
    for tap in taps:
        dtype = torch.float32 if tap.rows.dtype == torch.float32 else tap.rows.dtype
        golden = torch.from_numpy(tap.site.golden_inputs).to(tap.rows.device, dtype)
        inputs = nn.functional.pad(golden, (0, tap.rows.shape[1] - golden.shape[1]))
        scores = torch.zeros(len(inputs), tap.scores.shape[1], device=tap.scores.device)
        calls = torch.zeros_like(tap.calls)
        torch.ops.saeguard.tap(inputs, tap.rows, tap.bias, tap.threshold, tap.norm, scores, calls)
        got = scores[:, : tap.width].cpu().numpy()
        # Inputs rounded to 16 bits explain a difference of their own size; in fp32 there is none
        # to explain.
        tolerance = 1e-4 if dtype == torch.float32 else 5e-2
        error = np.abs(got - tap.site.golden_scores) / (1.0 + np.abs(tap.site.golden_scores))
        if not (error <= tolerance).all():
            worst = tap.site.features[int(np.nanargmax(error.max(axis=0)))].name
            raise UnsupportedError(
                f"the golden self-test of {tap.site.hook_point.place} failed at feature {worst!r}: "
                f"off by {np.nanmax(error):.2g} (tolerance {tolerance:g})"
            )


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
        *_filled(site, capacity, num_inputs, device, dtype),
        norm=_norm(site, capacity, device) if _is_scaled(site) else None,
        scores=torch.full((max_tokens, capacity), torch.nan, device=device),
        calls=torch.zeros(1, dtype=torch.int64, device=device),
        routing=routing,
    )


def _refilled(tap: Tap, site: Site) -> Tap:
    capacity = len(tap.bias)
    if len(site.features) > capacity:
        raise UnsupportedError(
            f"the watchlist has {len(site.features)} features at {site.hook_point.place}, and the "
            f"running graph has room for {capacity}",
            "restart the server",
        )
    if _is_scaled(site) and tap.norm is None:
        raise UnsupportedError(
            f"the watchlist has an SAE that scales its input at {site.hook_point.place}, and "
            "the running graph scales none there",
            "restart the server",
        )
    num_inputs, device = tap.rows.shape[1], tap.rows.device
    rows, bias, threshold = _filled(site, capacity, num_inputs, device, tap.rows.dtype)
    norm = None if tap.norm is None else _norm(site, capacity, device)
    return replace(tap, site=site, rows=rows, bias=bias, threshold=threshold, norm=norm)


def _emptied(site: Site) -> Site:
    return replace(
        site,
        features=(),
        weight=site.weight[:0],
        bias=site.bias[:0],
        threshold=site.threshold[:0],
        golden_scores=site.golden_scores[:, :0],
    )


def _filled(
    site: Site, capacity: int, num_inputs: int, device: torch.device, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows, bias and threshold, with unused rows up to the capacity; as in `Tap`."""
    _check_width(site, num_inputs)
    num_features, width = site.weight.shape
    weight = torch.zeros(capacity, num_inputs)
    weight[:num_features, :width] = torch.from_numpy(site.weight)
    bias = torch.zeros(capacity)
    bias[:num_features] = torch.from_numpy(site.bias)
    threshold = torch.full((capacity,), torch.inf)
    threshold[:num_features] = torch.from_numpy(site.threshold)
    return _rows(weight, device, dtype), bias.to(device), threshold.to(device)


def _is_scaled(site: Site) -> bool:
    return any(norm != "none" for norm in site.norms)


def _norm(site: Site, capacity: int, device: torch.device) -> torch.Tensor:
    norm = torch.zeros(capacity, dtype=torch.int64)
    norm[: len(site.norms)] = torch.tensor([NORMS.index(name) for name in site.norms])
    return norm.to(device)


def _check_width(site: Site, num_inputs: int) -> None:
    width = site.weight.shape[1]
    is_router = site.hook_point.kind == "router"
    if is_router and width > num_inputs:
        raise UnsupportedError(
            f"the watchlist watches expert {(width - 1) // 2} of layer {site.hook_point.layer}, "
            f"whose router has experts 0 to {num_inputs // 2 - 1}",
            "name another expert",
        )
    if not is_router and width != num_inputs:
        raise UnsupportedError(
            f"the watchlist has rows of {width} at {site.hook_point.place}, but this model has "
            f"{num_inputs} there",
            "use SAEs or probes of this model",
        )


def _rows(weight: torch.Tensor, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16):
        return weight.to(device)
    return halves(weight, dtype).to(device)


def halves(weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Rows of 16 bits, and below them rows of what these lack."""
    high = weight.to(dtype)
    low = (weight - high.float()).to(dtype)
    return torch.cat([high, low])
