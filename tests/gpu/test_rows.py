"""Rows of 16 bits in two halves, high and low, score as rows of 32 bits do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_models import make_watchlist

from saeguard.integrations.vllm import op
from saeguard.integrations.vllm.tap_rows import halves
from saeguard.monitor import watchlist as wl

DTYPES = [torch.bfloat16, torch.float16]
D_MODEL, NUM_FEATURES, NUM_TOKENS = 1024, 100, 512


def rows(seed: int = 0) -> torch.Tensor:
    """Of very different sizes."""
    generator = torch.Generator().manual_seed(seed)
    scale = torch.logspace(-2, 1, NUM_FEATURES)[:, None]
    return torch.randn(NUM_FEATURES, D_MODEL, generator=generator) * scale


@pytest.mark.parametrize("dtype", DTYPES)
def test_both_halves_together_are_the_row(device: str, dtype: torch.dtype):
    high, low = halves(rows().to(device), dtype).chunk(2)
    assert high.dtype == low.dtype == dtype
    error = (high.double() + low.double()).cpu() - rows().double()
    assert (error.abs() <= rows().abs() * 2**-15 + 2**-24).all()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
def test_no_gate_flips_between_halves_and_rows_of_32_bits(dtype: torch.dtype):
    """On activations of 16 bits, against the formula in float64, up to rounding of the products."""
    op.register()
    stream = torch.randn(NUM_TOKENS, D_MODEL, generator=torch.Generator().manual_seed(1)).to(dtype)
    weight, threshold = rows(), torch.linspace(-5, 5, NUM_FEATURES)
    bias = torch.zeros(NUM_FEATURES)
    scores = {}
    for name, each in (("halves", halves(weight, dtype)), ("fp32", weight)):
        scores[name] = torch.full((NUM_TOKENS, NUM_FEATURES), torch.nan, device="cuda")
        calls = torch.zeros(1, dtype=torch.int64, device="cuda")
        args = (stream, each, bias, threshold)
        torch.ops.saeguard.tap(*(arg.cuda() for arg in args), None, scores[name], calls)
    exact = stream.double() @ weight.double().T
    scale = stream.double().abs() @ weight.double().abs().T  # of what is summed
    for got in scores.values():
        error = torch.where(got.cpu() == 0, 0, got.cpu().double() - exact).abs()
        assert (error <= scale * 1e-5).all()
        flipped = (got.cpu() != 0) != (exact > threshold)
        assert ((exact - threshold).abs()[flipped] <= (scale * 1e-5)[flipped]).all()
        assert flipped.double().mean() <= 1e-5


def test_a_broken_stream_scores_no_number(device: str):
    """NaN stays NaN under a gate, of any kind of row."""
    op.register()
    site = make_watchlist([0]).sites[0]
    weight = torch.from_numpy(site.weight).to(device)
    stream = torch.full((1, weight.shape[1]), torch.nan, device=device)
    threshold, bias = torch.from_numpy(site.threshold), torch.from_numpy(site.bias)
    kinds = [weight] if device == "cpu" else [weight, *(halves(weight, each) for each in DTYPES)]
    for each in kinds:  # a CPU multiplies no rows of 16 bits
        scores = torch.zeros(1, len(site.features), device=device)
        calls = torch.zeros(1, dtype=torch.int64, device=device)
        inputs = stream if each.dtype == torch.float32 else stream.to(each.dtype)
        torch.ops.saeguard.tap(
            inputs, each, bias.to(device), threshold.to(device), None, scores, calls
        )
        assert np.isnan(scores.cpu().numpy()).all()


def test_a_row_is_scaled_by_the_norm_that_its_sae_asks_for(device: str):
    op.register()
    site = make_watchlist([0], num_features=3).sites[0]
    features = [replace(f, norm=norm) for f, norm in zip(site.features, wl.NORMS, strict=True)]
    site = replace(site, features=tuple(features))
    weight = torch.from_numpy(site.weight)
    each = weight if device == "cpu" else halves(weight, torch.bfloat16)
    stream = torch.randn(64, weight.shape[1], generator=torch.Generator().manual_seed(2)) * 9
    stream = stream.bfloat16().to(each.dtype)
    scores = torch.zeros(64, 3, device=device)
    args = [stream, each, torch.from_numpy(site.bias), torch.from_numpy(site.threshold)]
    args += [torch.arange(3)]
    calls = torch.zeros(1, dtype=torch.int64, device=device)
    torch.ops.saeguard.tap(*(arg.to(device) for arg in args), scores, calls)
    expected = wl.encode(stream.float().numpy(), site)
    np.testing.assert_allclose(scores.cpu().numpy(), expected, rtol=1e-3, atol=1e-3)
