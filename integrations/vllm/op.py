"""The custom ops that score what a site reads: `torch.ops.saeguard.tap` the residual stream,
`torch.ops.saeguard.tap_router` what a router makes of its logits.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.library import Library

from saeguard.monitor.watchlist import LAYER_NORM_EPS

VERSION = 3
"""Of their signatures and arithmetic, and of where their buffers are: compiled graphs hold calls of
them."""

_LIBRARY = Library("saeguard", "FRAGMENT")  # the op lives as long as this object


def _tap(
    stream: torch.Tensor,
    rows: torch.Tensor,
    bias: torch.Tensor,
    threshold: torch.Tensor,
    norm: torch.Tensor | None,
    scores: torch.Tensor,
    calls: torch.Tensor,
) -> None:
    num_tokens = min(stream.shape[0], scores.shape[0])
    stream = stream[:num_tokens]
    if rows.dtype == torch.float32:
        p = nn.functional.linear(stream.float(), rows)
    else:  # hi + lo rows: bf16 products, summed in fp32, as exact as fp32 rows (research: 0 flips)
        both = torch.mm(stream.to(rows.dtype), rows.t(), out_dtype=torch.float32)
        capacity = bias.shape[0]
        p = both[:, :capacity] + both[:, capacity:]
    if norm is not None:
        p *= input_scales(stream).index_select(1, norm)
    p += bias
    # Written this way round, NaN stays NaN: a broken model must not look safe.
    scores[:num_tokens].copy_(p.masked_fill_(p <= threshold, 0.0))
    calls += 1


def _tap_fake(
    stream: torch.Tensor,
    rows: torch.Tensor,
    bias: torch.Tensor,
    threshold: torch.Tensor,
    norm: torch.Tensor | None,
    scores: torch.Tensor,
    calls: torch.Tensor,
) -> None:
    return None


def input_scales(stream: torch.Tensor) -> torch.Tensor:
    """What each norm of a watchlist multiplies the products of a token by, [tokens, norms] fp32."""
    stream = stream.float()
    rescale = stream.shape[1] ** 0.5 / torch.linalg.vector_norm(stream, dim=1)
    layer_norm = 1.0 / (stream.std(dim=1) + LAYER_NORM_EPS)
    return torch.stack([torch.ones_like(rescale), rescale, layer_norm], dim=1)


def router_inputs(
    logits: torch.Tensor,
    choice_bias: torch.Tensor | None,
    top_k: int,
    is_sigmoid: bool,
    renormalize: bool,
) -> torch.Tensor:
    """Of each expert its weight, which is 0 unless it is chosen, and its logit.

    Args:
        logits: [tokens, experts].
        choice_bias: [experts], added to the scores to choose by.

    Returns:
        [tokens, 2 * experts] fp32: the weight of expert 0, its logit, the weight of expert 1, ...
    """
    logits = logits.float()
    scores = logits.sigmoid() if is_sigmoid else logits.softmax(dim=-1)
    preference = scores if choice_bias is None else scores + choice_bias.float()
    # Stable: among equals vLLM's kernels take the first, and logits of 16 bits often are equal.
    chosen = preference.sort(dim=-1, descending=True, stable=True).indices[:, :top_k]
    weights = scores.gather(-1, chosen)
    if renormalize:
        weights = weights / weights.sum(dim=-1, keepdim=True)
    weights = torch.zeros_like(scores).scatter(-1, chosen, weights)
    return torch.stack([weights, logits], dim=-1).flatten(1)


def _tap_router(
    logits: torch.Tensor,
    choice_bias: torch.Tensor | None,
    top_k: int,
    is_sigmoid: bool,
    renormalize: bool,
    rows: torch.Tensor,
    bias: torch.Tensor,
    threshold: torch.Tensor,
    scores: torch.Tensor,
    calls: torch.Tensor,
) -> None:
    inputs = router_inputs(logits, choice_bias, top_k, is_sigmoid, renormalize)
    _tap(inputs, rows, bias, threshold, None, scores, calls)


def _tap_router_fake(
    logits: torch.Tensor,
    choice_bias: torch.Tensor | None,
    top_k: int,
    is_sigmoid: bool,
    renormalize: bool,
    rows: torch.Tensor,
    bias: torch.Tensor,
    threshold: torch.Tensor,
    scores: torch.Tensor,
    calls: torch.Tensor,
) -> None:
    return None


def register() -> None:
    """Define the ops, once per process."""
    from vllm.utils.torch_utils import direct_register_custom_op

    if hasattr(torch.ops.saeguard, "tap"):
        return
    for name, function, fake in (
        ("tap", _tap, _tap_fake),
        ("tap_router", _tap_router, _tap_router_fake),
    ):
        direct_register_custom_op(
            name, function, mutates_args=["scores", "calls"], fake_impl=fake, target_lib=_LIBRARY
        )
