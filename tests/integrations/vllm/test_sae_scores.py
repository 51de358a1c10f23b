"""SAEs that scale their input, in a real engine: scores are `SAE.encode` of the same stream."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from engine_run import run_engine
from saes import make_sae, write_rules
from tiny_models import D_MODEL, hidden_states, make_model

from saeguard.monitor import watchlist as wl
from saeguard.monitor.compile import compile_watchlist
from saeguard.monitor.messages import RequestStart
from saeguard.rules import load_rules

sae_lens = pytest.importorskip("sae_lens")
pytestmark = [pytest.mark.server, pytest.mark.offline]

PROMPTS = [list(range(10, 40)), list(range(50, 57)), [5, 9, 9, 8]]
SAES = {
    "normed": ("jumprelu", 0, "layer_norm"),
    "rescaled": ("gated", 0, "constant_norm_rescale"),
    "plain": ("standard", 2, "none"),
}
"""Folder -> architecture, layer and norm: at layer 0 two SAEs share a tap."""


def watch(directory: Path) -> wl.Watchlist:
    features = {}
    for folder, (architecture, layer, norm) in SAES.items():
        make_sae(
            directory / folder, architecture, True, d_in=D_MODEL, normalize_activations=norm,
            metadata=sae_lens.saes.sae.SAEMetadata(
                hook_name=f"blocks.{layer}.hook_resid_post", sae_lens_version="6.54.12"
            ),
        )  # fmt: skip
        rules = json.loads(write_rules(directory, range(0, 96, 8), {"path": folder}).read_text())
        features |= {f"{folder}_{name}": entry for name, entry in rules["features"].items()}
    signals = {f"s{i}": {"feature": f, "agg": "value", "gte": 1} for i, f in enumerate(features)}
    rules["features"], rules["rules"][0]["signals"] = features, signals
    (directory / "rules.yaml").write_text(json.dumps(rules))
    return compile_watchlist(load_rules([directory / "rules.yaml"]))


def test_in_the_engine_scores_are_those_of_sae_encode(tmp_path: Path):
    model, watchlist = make_model(tmp_path / "model"), watch(tmp_path)
    run = run_engine(tmp_path, model, watchlist, PROMPTS, engine={"enforce_eager": True})
    outputs = {tuple(p): o for p, o in zip(PROMPTS, run.outputs, strict=True)}
    saes = {folder: sae_lens.SAE.load_from_disk(str(tmp_path / folder)) for folder in SAES}
    starts = [message for message in run.messages if isinstance(message, RequestStart)]
    assert len(starts) == len(PROMPTS)
    num_active, flips = 0, 0
    for start in starts:
        token_ids = [*start.prompt_token_ids, *outputs[tuple(start.prompt_token_ids)]]
        streams = [torch.from_numpy(stream) for stream in hidden_states(model, token_ids)]
        rows = run.scores_of(start.req_id)
        got = np.stack([rows[position] for position in range(len(token_ids) - 1)])
        with torch.no_grad():
            activations = {f: saes[f].encode(streams[SAES[f][1]]).numpy() for f in SAES}
        expected = np.stack(
            [
                activations[name.rpartition("_")[0]][:-1, int(name.rpartition("_f")[2])]
                for name in watchlist.columns
            ],
            axis=1,
        )
        np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-3 * expected.max())
        flips += int(((got > 0) != (expected > 0)).sum())
        num_active += int((expected > 0).sum())
    assert num_active > 200
    assert flips == 0
