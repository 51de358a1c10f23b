"""Compiled rows give SAELens' own activations, and what cannot be compiled is named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from saes import D_MODEL, make_sae, write_rules
from typer.testing import CliRunner

from saeguard.monitor import watchlist as wl
from saeguard.monitor.cli.app import app
from saeguard.monitor.compile import compile_watchlist
from saeguard.monitor.errors import CompileError, ConfigError
from saeguard.monitor.feature_labels import FeatureLabel, newest
from saeguard.monitor.rulebook import Rulebook
from saeguard.rules import load_rules

sae_lens = pytest.importorskip("sae_lens")

WATCHED = [0, 5, 40, 95]


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
        ({"architecture": "temporal"}, "'temporal' cannot be watched row by row: it attends"),
        ({"architecture": "matching_pursuit"}, "cannot be watched row by row: it chooses"),
        ({"architecture": "abstopk"}, "negative ones too"),
        ({"architecture": "batchtopk"}, "save_inference_model makes a jumprelu of it"),
        ({"architecture": "new"}, "architecture 'new' is not known .*standard, jumprelu"),
        ({"activation_fn_str": "tanh-relu"}, "'tanh-relu' is not known"),
        ({"normalize_activations": "expected_average_only_in"}, "sae.norm_scaling_factor"),
        ({"normalize_activations": "covariance_whitening"}, "not folded into the weights"),
        ({"normalize_activations": "new"}, "normalize_activations 'new' is not known"),
        ({"hook_head_index": 3}, "single heads cannot be watched"),
        ({"metadata": {"hook_name": "blocks.3.attn.hook_q"}}, "hook_q.*cannot be watched"),
        ({"metadata": {}}, "do not say where the sae-lens SAE is read .*sae.layer"),
    ],
)
def test_an_sae_that_cannot_be_read_row_by_row_is_refused_and_says_why(
    tmp_path: Path, change: dict[str, object], message: str
):
    make_sae(tmp_path / "sae", "jumprelu", True)
    config = json.loads((tmp_path / "sae" / "cfg.json").read_text())
    (tmp_path / "sae" / "cfg.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(CompileError, match=message):
        compile_watchlist(load_rules([write_rules(tmp_path, [5])]))


def test_a_factor_that_the_sae_does_not_need_is_refused(tmp_path: Path):
    make_sae(tmp_path / "sae", "jumprelu", True)
    rules = load_rules([write_rules(tmp_path, [5], {"norm_scaling_factor": 2.0})])
    with pytest.raises(CompileError, match=r"norm_scaling_factor, and this SAE needs none"):
        compile_watchlist(rules)


def test_a_changed_factor_is_not_overlooked_with_a_watchlist_of_before(tmp_path: Path):
    make_sae(tmp_path / "sae", "jumprelu", True)
    config = json.loads((tmp_path / "sae" / "cfg.json").read_text())
    config["normalize_activations"] = "expected_average_only_in"
    (tmp_path / "sae" / "cfg.json").write_text(json.dumps(config))
    before, after = (
        load_rules([write_rules(tmp_path, [5], {"norm_scaling_factor": factor})])
        for factor in (5.9, 6.1)
    )
    watchlist = compile_watchlist(before)
    Rulebook.make(before, watchlist, "")
    with pytest.raises(ConfigError, match=r"is of the sae sae with norm_scaling_factor 5\.9"):
        Rulebook.make(after, watchlist, "")


def test_of_one_file_rows_of_several_layers_are_read_each_from_its_own(tmp_path: Path):
    """As Qwen-Scope has them: a file per layer in one folder."""
    (tmp_path / "sae").mkdir()
    for layer in (2, 5):
        weights = {"W_enc": torch.full((8, 4), float(layer)), "b_enc": torch.zeros(8)}
        torch.save(weights, tmp_path / "sae" / f"layer{layer}.sae.pt")
    rules = json.loads(write_rules(tmp_path, [1, 3]).read_text())
    rules["features"]["f1"]["sae"]["layer"], rules["features"]["f3"]["sae"]["layer"] = 2, 5
    (tmp_path / "rules.yaml").write_text(json.dumps(rules))
    sites = compile_watchlist(load_rules([tmp_path / "rules.yaml"])).sites
    assert [(site.hook_point.layer, site.weight[0, 0]) for site in sites] == [(2, 2.0), (5, 5.0)]


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


def test_labels_are_pinned_with_where_they_come_from_and_the_rules_own_stand(tmp_path: Path):
    make_sae(tmp_path / "sae", "jumprelu", True)
    rules = json.loads(write_rules(tmp_path, [5, 40, 41]).read_text())
    for entry in rules["features"].values():
        entry["sae"]["neuronpedia"] = "m/3-res"
    rules["features"]["f5"]["label"] = rules["features"]["f41"]["label"] = ""
    (tmp_path / "rules.yaml").write_text(json.dumps(rules))
    table = newest(
        FeatureLabel("m/3-res", index, "lies", "explained", "2026-01-02", "a.jsonl")
        for index in (5, 40)
    )
    watchlist = compile_watchlist(load_rules([tmp_path / "rules.yaml"]), labels=table)
    wl.save(watchlist, tmp_path / "w")
    features = {f.name: f for f in wl.load(tmp_path / "w").sites[0].features}
    pinned = features["f5"]
    assert (pinned.label, pinned.label_source, pinned.label_method, pinned.label_date) == (
        "lies", "a.jsonl", "explained", "2026-01-02",
    )  # fmt: skip
    assert pinned.neuronpedia_url == "https://www.neuronpedia.org/m/3-res/5"
    assert (features["f40"].label, features["f40"].label_source) == ("feature 40", "")
    assert features["f41"].label == ""


def test_what_neuronpedia_calls_the_sae_is_in_its_own_configuration_or_in_the_rules(tmp_path: Path):
    make_sae(tmp_path / "sae", "jumprelu", True)
    config = json.loads((tmp_path / "sae" / "cfg.json").read_text())
    config["metadata"]["neuronpedia_id"] = "m/9-own"
    (tmp_path / "sae" / "cfg.json").write_text(json.dumps(config))
    for sae, expected in (({}, "m/9-own"), ({"neuronpedia": "m/3-res"}, "m/3-res")):
        (site,) = compile_watchlist(load_rules([write_rules(tmp_path, [5], sae)])).sites
        assert site.features[0].neuronpedia == expected


def test_the_command_takes_labels_and_says_how_many(tmp_path: Path):
    make_sae(tmp_path / "sae", "jumprelu", True)
    rules = write_rules(tmp_path, [5, 40], {"neuronpedia": "m/3-res"}, label="")
    row = {"modelId": "m", "layer": "3-res", "index": "5", "description": "lies"}
    (tmp_path / "labels.jsonl").write_text(json.dumps(row))
    options = ["-o", str(tmp_path / "w"), "--labels", str(tmp_path / "labels.jsonl")]
    out = CliRunner().invoke(app, ["compile", str(rules), *options]).output
    assert "1 of 2 features have their label from" in out
    assert {f.name: f.label for f in wl.load(tmp_path / "w").sites[0].features} == {
        "f5": "lies",
        "f40": "",
    }
