"""Compiled rows give SAELens' own activations, and what cannot be compiled is named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from saeguard.monitor import watchlist as wl
from saeguard.monitor.compile import compile_watchlist
from saeguard.monitor.errors import CompileError
from saeguard.rules import load_rules

sae_lens = pytest.importorskip("sae_lens")

D_MODEL, D_SAE = 24, 96
WATCHED = [0, 5, 40, 95]


def make_sae(directory: Path, architecture: str, apply_b_dec: bool, **config: object) -> None:
    """A random SAE, saved by sae-lens."""
    torch.manual_seed(3)
    kind, config_kind = {
        "jumprelu": (sae_lens.JumpReLUSAE, sae_lens.JumpReLUSAEConfig),
        "standard": (sae_lens.StandardSAE, sae_lens.StandardSAEConfig),
    }[architecture]
    settings = {
        "d_in": D_MODEL,
        "d_sae": D_SAE,
        "apply_b_dec_to_input": apply_b_dec,
        "metadata": sae_lens.saes.sae.SAEMetadata(hook_name="blocks.3.hook_resid_post"),
        **config,
    }
    sae = kind(config_kind(**settings))
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            parameter.normal_(0.0, 1.0)
            if name == "threshold":
                parameter.uniform_(-0.5, 4.0)
    sae.save_model(directory)


def write_rules(directory: Path, indices: list[int], **feature: object) -> Path:
    features = {
        f"f{i}": {"sae": {"path": "sae"}, "index": i, "label": f"feature {i}", **feature}
        for i in indices
    }
    signals = {f"s{i}": {"feature": f"f{i}", "agg": "value", "gte": 1.0} for i in indices}
    rule = {
        "id": "7d1c0c1e-5a0a-4b7c-8a5f-1c1f6f0c9b11",
        "name": "all_of_them",
        "title": "All",
        "status": "test",
        "severity": "low",
        "signals": signals,
        "condition": " and ".join(signals),
        "message": "{rule.title}",
        "tags": ["site.test"],
        "falsepositives": [],
    }
    path = directory / "rules.yaml"
    header = {"version": 1, "ruleset": {"name": "x", "version": "1.0.0"}}
    path.write_text(json.dumps({**header, "features": features, "rules": [rule]}))
    return path


@pytest.mark.parametrize("apply_b_dec", [True, False])
@pytest.mark.parametrize("architecture", ["jumprelu", "standard"])
def test_rows_equal_sae_encode_without_a_flipped_gate(
    tmp_path: Path, architecture: str, apply_b_dec: bool
):
    make_sae(tmp_path / "sae", architecture, apply_b_dec)
    watchlist = compile_watchlist(load_rules([write_rules(tmp_path, WATCHED)]))
    (site,) = watchlist.sites
    assert str(site.hook_point) == "blocks.3.hook_resid_post"
    x = torch.randn(4096, D_MODEL, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = sae_lens.SAE.load_from_disk(str(tmp_path / "sae")).encode(x).numpy()[:, WATCHED]
    order = [feature.index for feature in site.features]
    got = wl.encode(x.numpy(), site)[:, [order.index(i) for i in WATCHED]]
    assert ((got != 0) == (expected != 0)).all()
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-4)


def test_neuronpedia_units_are_the_activation_by_the_decoder_norm(tmp_path: Path):
    make_sae(tmp_path / "sae", "jumprelu", True)
    raw = compile_watchlist(load_rules([write_rules(tmp_path, [5])])).sites[0]
    scaled = compile_watchlist(load_rules([write_rules(tmp_path, [5], units="neuronpedia")]))
    sae = sae_lens.SAE.load_from_disk(str(tmp_path / "sae"))
    norm = sae.W_dec[5].norm().item()
    x = np.random.default_rng(0).standard_normal((512, D_MODEL))
    np.testing.assert_allclose(
        wl.encode(x, scaled.sites[0]), wl.encode(x, raw) * norm, rtol=1e-5, atol=1e-5
    )


def test_golden_vectors_open_gates_as_well_as_closing_them(tmp_path: Path):
    make_sae(tmp_path / "sae", "jumprelu", True)
    (site,) = compile_watchlist(load_rules([write_rules(tmp_path, WATCHED)])).sites
    assert (site.golden_scores > 0).any()
    assert (site.golden_scores == 0).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": "topk"}, "architecture 'topk' is not supported"),
        ({"normalize_activations": "layer_norm"}, "normalize_activations 'layer_norm'"),
        ({"metadata": {"hook_name": "blocks.3.attn.hook_q"}}, "hook_q.*cannot be watched"),
    ],
)
def test_an_sae_that_cannot_be_read_exactly_is_refused(
    tmp_path: Path, change: dict[str, object], message: str
):
    make_sae(tmp_path / "sae", "jumprelu", True)
    config = json.loads((tmp_path / "sae" / "cfg.json").read_text())
    (tmp_path / "sae" / "cfg.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(CompileError, match=message):
        compile_watchlist(load_rules([write_rules(tmp_path, [5])]))


def test_every_fault_is_reported_with_its_place(tmp_path: Path):
    make_sae(tmp_path / "sae", "jumprelu", True)
    with pytest.raises(
        CompileError, match=r"rules\.yaml:1:\d+: feature 'f96': index 96 is outside"
    ):
        compile_watchlist(load_rules([write_rules(tmp_path, [96])]))


def test_an_sae_is_watched_where_its_hook_name_says(tmp_path: Path):
    make_sae(tmp_path / "sae", "jumprelu", True)
    config = json.loads((tmp_path / "sae" / "cfg.json").read_text())
    config["metadata"]["hook_name"] = "blocks.3.hook_mlp_out"
    (tmp_path / "sae" / "cfg.json").write_text(json.dumps(config))
    (site,) = compile_watchlist(load_rules([write_rules(tmp_path, [5])])).sites
    assert str(site.hook_point) == "blocks.3.hook_mlp_out"
