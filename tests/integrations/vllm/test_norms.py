"""Features of SAEs that scale their input: each row by the norm that its own SAE asks for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import D_MODEL, make_model, make_watchlist
from transformers import AutoModelForCausalLM

from saeguard.integrations.vllm.refill import refill
from saeguard.integrations.vllm.self_test import self_test
from saeguard.integrations.vllm.tap import Tap, layout_digest, make_taps
from saeguard.monitor import watchlist as wl
from saeguard.monitor.errors import UnsupportedError

PLAIN = make_watchlist([1])


def with_norms(*norms: wl.Norm) -> wl.Watchlist:
    """`PLAIN` with these norms of its features."""
    (site,) = PLAIN.sites
    features = [replace(f, norm=norm) for f, norm in zip(site.features, norms, strict=True)]
    site = replace(site, features=tuple(features))
    golden = wl.encode(site.golden_inputs, site).astype(np.float32)
    return wl.build(D_MODEL, [replace(site, golden_scores=golden)])


MIXED = with_norms("none", "constant_norm_rescale", "layer_norm", "none", "layer_norm")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(make_model(tmp_path_factory.mktemp("model")))


def run_op(tap: Tap, stream: torch.Tensor) -> np.ndarray:
    torch.ops.saeguard.tap(
        stream, tap.rows, tap.bias, tap.threshold, tap.norm, tap.scores, tap.calls
    )
    return tap.scores[: len(stream), : tap.width].numpy()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_row_is_scaled_by_its_own_norm(model: torch.nn.Module, dtype: torch.dtype):
    (tap,) = make_taps(model, MIXED.sites, max_tokens=64)
    stream = (5 * torch.randn(40, D_MODEL, generator=torch.Generator().manual_seed(0))).to(dtype)
    stream[7] *= 1000
    expected = wl.encode(stream.float().numpy(), MIXED.sites[0])
    np.testing.assert_allclose(run_op(tap, stream), expected, rtol=1e-4, atol=1e-4)
    assert (expected[:, 1:3] > 0).any(axis=0).all()
    self_test([tap])


def test_an_input_of_zeros_is_no_number_only_where_its_norm_is_divided_by(model: torch.nn.Module):
    (tap,) = make_taps(model, MIXED.sites, max_tokens=64)
    got = run_op(tap, torch.zeros(1, D_MODEL))
    assert np.isnan(got).tolist() == [[False, True, False, False, False]]
    np.testing.assert_allclose(got, wl.encode(np.zeros((1, D_MODEL)), MIXED.sites[0]), rtol=1e-6)


def test_the_graph_with_norms_is_another_and_takes_rows_without(model: torch.nn.Module):
    plain, scaled = make_taps(model, [*PLAIN.sites, *MIXED.sites], max_tokens=64)
    assert plain.norm is None
    assert layout_digest([plain]) != layout_digest([scaled])
    (tap,) = refill([scaled], PLAIN)
    self_test([tap])
    with pytest.raises(UnsupportedError, match=r"scales its input at layer 1.*\n?.*restart"):
        refill([plain], MIXED)


def test_norms_survive_a_file_and_make_another_digest(tmp_path: Path):
    wl.save(MIXED, tmp_path / "w")
    loaded = wl.load(tmp_path / "w")
    assert loaded.sites[0].norms == MIXED.sites[0].norms
    assert loaded.digest != PLAIN.digest
    assert not set(loaded.identities[1:3]) & set(PLAIN.identities)
