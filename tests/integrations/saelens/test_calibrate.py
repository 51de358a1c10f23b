"""A threshold in the place of TopK is measured on the user's own activations."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from saes import D_MODEL, make_sae, write_rules
from safetensors.numpy import save_file
from typer.testing import CliRunner

from saeguard.monitor import watchlist as wl
from saeguard.monitor.cli.app import app
from saeguard.monitor.compile import compile_watchlist
from saeguard.monitor.errors import CompileError
from saeguard.rules import load_rules

sae_lens = pytest.importorskip("sae_lens")

K = 8
WATCHED = [2, 40, 95]
X = torch.randn(1500, D_MODEL, generator=torch.Generator().manual_seed(4)).numpy()


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    save_file(
        {"blocks.3.hook_resid_post": X, "other": X[:, :2].copy()}, tmp_path / "sample.safetensors"
    )
    return tmp_path / "sample.safetensors"


@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("norm", ["none", "layer_norm", "constant_norm_rescale"])
def test_what_is_said_of_a_threshold_is_what_sae_lens_finds(
    tmp_path: Path, sample: Path, norm: str, rescale: bool
):
    make_sae(
        tmp_path / "sae", "topk", True, k=K, normalize_activations=norm,
        rescale_acts_by_decoder_norm=rescale,
    )  # fmt: skip
    (site,) = compile_watchlist(load_rules([write_rules(tmp_path, WATCHED)]), sample).sites
    sae = sae_lens.SAE.load_from_disk(str(tmp_path / "sae"))
    with torch.no_grad():
        kept = sae.encode(torch.from_numpy(X)).to_dense().numpy()
    smallest = np.where(kept > 0, kept, np.inf).min(axis=1)
    np.testing.assert_allclose(site.threshold, np.median(smallest), rtol=1e-4)
    scores = wl.encode(X, site)
    for i, feature in enumerate(site.features):
        fired, claimed = kept[:, feature.index] > 0, scores[:, i] > 0
        if not fired.any():
            assert "it was not kept on 1,500 tokens" in feature.inexact_reason
            continue
        found = re.search(
            r"finds (\d+)% of the (\d+) times .* is right (\d+)%", feature.inexact_reason
        )
        assert found is not None
        recall, precision = (
            (fired & claimed).sum() / fired.sum(),
            (fired & claimed).sum() / claimed.sum(),
        )
        assert int(found[2]) == fired.sum()
        assert abs(int(found[1]) - 100 * recall) <= 1
        assert abs(int(found[3]) - 100 * precision) <= 1


def test_the_command_says_what_is_approximate_and_by_how_much(tmp_path: Path, sample: Path):
    make_sae(tmp_path / "sae", "topk", True, k=K)
    rules = write_rules(tmp_path, WATCHED)
    command = ["compile", str(rules), "-o", str(tmp_path / "w")]
    plain = CliRunner().invoke(app, command).output
    assert "f40 is approximate: TopK keeps the 8 largest of all features" in plain
    assert "tokens of" not in plain
    measured = CliRunner().invoke(app, [*command, "--sample", str(sample)]).output
    assert "on 1,500 tokens of sample.safetensors a threshold of" in measured
    (site,) = wl.load(tmp_path / "w").sites
    assert site.features[0].inexact_reason in measured


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, "no activations .* it has none at all|it has none at all"),
        ({"a": X, "b": X}, r"named 'blocks.3.hook_resid_post' \(it has a, b\)"),
        ({"a": X[:, :5].copy()}, "has 5 numbers of each token, and the SAE reads 24"),
        (None, "no such file"),
    ],
)
def test_a_sample_that_does_not_fit_is_refused(
    tmp_path: Path, tensors: dict[str, np.ndarray] | None, message: str
):
    make_sae(tmp_path / "sae", "topk", True, k=K)
    if tensors is not None:
        save_file(tensors, tmp_path / "s.safetensors")
    with pytest.raises(CompileError, match=message):
        compile_watchlist(load_rules([write_rules(tmp_path, WATCHED)]), tmp_path / "s.safetensors")
