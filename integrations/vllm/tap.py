"""The tap: one custom op per watched layer, inside the compiled graph.

A forward hook on a module below the compiled model is traced into the graph and runs on every
step. The op reads only buffers, so that other rules need no other graph: a watchlist of the same
sites fits without recompiling as long as it stays within the capacity.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.library import Library

from saeguard.integrations.vllm.architectures import architecture_of, stream_of, tapped_module
from saeguard.monitor.errors import UnsupportedError
from saeguard.monitor.watchlist import Site, Watchlist

_OP_VERSION = 1
_CAPACITY_STEP = 64
_LIBRARY = Library("saeguard", "FRAGMENT")  # the op lives as long as this object


def _tap(
    stream: torch.Tensor,
    rows: torch.Tensor,
    bias: torch.Tensor,
    threshold: torch.Tensor,
    scores: torch.Tensor,
    calls: torch.Tensor,
) -> None:
    num_tokens = min(stream.shape[0], scores.shape[0])
    stream = stream[:num_tokens]
    if rows.dtype == torch.float32:
        p = nn.functional.linear(stream.float(), rows, bias)
    else:  # hi + lo rows: bf16 products, summed in fp32, as exact as fp32 rows (research: 0 flips)
        both = torch.mm(stream.to(rows.dtype), rows.t(), out_dtype=torch.float32)
        capacity = bias.shape[0]
        p = both[:, :capacity] + both[:, capacity:] + bias
    # Written this way round, NaN stays NaN: a broken model must not look safe.
    scores[:num_tokens].copy_(p.masked_fill_(p <= threshold, 0.0))
    calls += 1


def _tap_fake(
    stream: torch.Tensor,
    rows: torch.Tensor,
    bias: torch.Tensor,
    threshold: torch.Tensor,
    scores: torch.Tensor,
    calls: torch.Tensor,
) -> None:
    return None


def register_op() -> None:
    """Define `torch.ops.saeguard.tap`, once per process."""
    from vllm.utils.torch_utils import direct_register_custom_op

    if not hasattr(torch.ops.saeguard, "tap"):
        direct_register_custom_op(
            "tap", _tap, mutates_args=["scores", "calls"], fake_impl=_tap_fake, target_lib=_LIBRARY
        )


@dataclass(frozen=True, slots=True)
class Tap:
    """The buffers of one tapped layer, on the model's device."""

    site: Site
    rows: torch.Tensor  # [capacity, d_model] fp32, or [2 * capacity, d_model] as hi + lo halves
    bias: torch.Tensor  # [capacity]
    threshold: torch.Tensor  # [capacity], +inf in unused rows: their score is 0
    scores: torch.Tensor  # [max_tokens, capacity] fp32; NaN until the graph has written it
    calls: torch.Tensor  # [1] int64: how often the op has run

    @property
    def width(self) -> int:
        return len(self.site.features)


def make_taps(model: nn.Module, watchlist: Watchlist, max_tokens: int) -> list[Tap]:
    """The buffers for every site of the watchlist; the model is not touched.

    Raises:
        UnsupportedError: the architecture or a layer does not fit.
    """
    register_op()
    entry = architecture_of(model)
    parameter = next(model.parameters())
    for site in watchlist.sites:
        tapped_module(model, entry, site.layer)
    return [_make_tap(s, max_tokens, parameter.device, parameter.dtype) for s in watchlist.sites]


def hook(model: nn.Module, taps: list[Tap]) -> None:
    """Put the op into the model. Must precede the first forward pass; nothing may fail after it,
    or the graph would have taps that the compile cache does not know of.
    """
    entry = architecture_of(model)

    def tap_stream(module: Any, args: Any, output: Any) -> None:
        torch.ops.saeguard.tap(
            stream_of(entry, output),
            module.saeguard_rows,
            module.saeguard_bias,
            module.saeguard_threshold,
            module.saeguard_scores,
            module.saeguard_calls,
        )

    for tap in taps:
        module = tapped_module(model, entry, tap.site.layer)
        # Module buffers, not loose tensors: sleep mode saves and restores them with the model.
        for name in ("rows", "bias", "threshold", "scores", "calls"):
            module.register_buffer(f"saeguard_{name}", getattr(tap, name), persistent=False)
        module.register_forward_hook(tap_stream)


def layout_digest(taps: list[Tap]) -> str:
    """What the compiled graph depends on, for vLLM's compile cache: hooks are not part of its
    key.
    """
    layout = [
        {
            "layer": tap.site.layer,
            "rows": list(tap.rows.shape),
            "dtype": str(tap.rows.dtype),
            "scores": list(tap.scores.shape),
        }
        for tap in taps
    ]
    return hashlib.sha256(json.dumps([_OP_VERSION, layout]).encode()).hexdigest()


def self_test(taps: list[Tap]) -> None:
    """Run the op on each site's golden inputs, on this device, without touching the live buffers.

    Raises:
        UnsupportedError: a gate flips, or a score is off by more than the arithmetic explains.
    """
    for tap in taps:
        dtype = torch.float32 if tap.rows.dtype == torch.float32 else tap.rows.dtype
        inputs = torch.from_numpy(tap.site.golden_inputs).to(tap.rows.device, dtype)
        scores = torch.zeros(len(inputs), tap.scores.shape[1], device=tap.scores.device)
        calls = torch.zeros_like(tap.calls)
        torch.ops.saeguard.tap(inputs, tap.rows, tap.bias, tap.threshold, scores, calls)
        got = scores[:, : tap.width].cpu().numpy()
        # Inputs rounded to 16 bits explain a difference of their own size; in fp32 there is none
        # to explain.
        tolerance = 1e-4 if dtype == torch.float32 else 5e-2
        error = np.abs(got - tap.site.golden_scores) / (1.0 + np.abs(tap.site.golden_scores))
        if not (error <= tolerance).all():
            worst = tap.site.features[int(np.nanargmax(error.max(axis=0)))].name
            raise UnsupportedError(
                f"the golden self-test of layer {tap.site.layer} failed at feature {worst!r}: "
                f"off by {np.nanmax(error):.2g} (tolerance {tolerance:g})"
            )


def _make_tap(site: Site, max_tokens: int, device: torch.device, dtype: torch.dtype) -> Tap:
    num_features, d_model = site.weight.shape
    capacity = -(-num_features // _CAPACITY_STEP) * _CAPACITY_STEP
    weight = torch.zeros(capacity, d_model)
    weight[:num_features] = torch.from_numpy(site.weight)
    bias = torch.zeros(capacity)
    bias[:num_features] = torch.from_numpy(site.bias)
    threshold = torch.full((capacity,), torch.inf)
    threshold[:num_features] = torch.from_numpy(site.threshold)
    return Tap(
        site=site,
        rows=_rows(weight, device, dtype),
        bias=bias.to(device),
        threshold=threshold.to(device),
        scores=torch.full((max_tokens, capacity), torch.nan, device=device),
        calls=torch.zeros(1, dtype=torch.int64, device=device),
    )


def _rows(weight: torch.Tensor, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16):
        return weight.to(device)
    high = weight.to(dtype)
    low = (weight - high.float()).to(dtype)
    return torch.cat([high, low]).to(device)
