"""The custom op that scores the residual stream: `torch.ops.saeguard.tap`."""

from __future__ import annotations

import torch
from torch import nn
from torch.library import Library

VERSION = 1
"""Of its signature and its arithmetic: compiled graphs hold calls of it."""

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


def register() -> None:
    """Define `torch.ops.saeguard.tap`, once per process."""
    from vllm.utils.torch_utils import direct_register_custom_op

    if not hasattr(torch.ops.saeguard, "tap"):
        direct_register_custom_op(
            "tap", _tap, mutates_args=["scores", "calls"], fake_impl=_tap_fake, target_lib=_LIBRARY
        )
