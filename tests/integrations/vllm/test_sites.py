"""What an architecture offers to be watched, and what it does not, which is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast, get_args

import numpy as np
import pytest
from tapped_model import LlamaForCausalLM
from tiny_models import inputs_at, make_model, make_watchlist

from saeguard.integrations.vllm import tap
from saeguard.integrations.vllm.architectures import ARCHITECTURES, place_of
from saeguard.integrations.vllm.preflight import check_model
from saeguard.integrations.vllm.tap import make_taps
from saeguard.integrations.vllm.verify.protocol import EngineFacts
from saeguard.integrations.vllm.verify.reference import compute
from saeguard.monitor import watchlist as wl
from saeguard.monitor.errors import UnsupportedError
from saeguard.monitor.sites import HookPoint, SiteKind

TINY: dict[str, dict[str, Any]] = {
    "gemma2": {"query_pre_attn_scalar": 32},
    "gpt2": {"n_embd": 64, "n_layer": 3, "n_head": 2, "n_positions": 512},
    "mixtral": {"num_experts_per_tok": 2, "num_local_experts": 4},
}
TOKENS = [5, 9, 17, 40, 41, 42, 60, 7]
KINDS: tuple[SiteKind, ...] = get_args(SiteKind)


def test_each_kind_of_hook_point_is_offered_somewhere_and_the_stream_after_a_layer_everywhere():
    assert {kind for entry in ARCHITECTURES.values() for kind in entry.kinds} == set(KINDS)
    assert all("resid_post" in entry.kinds for entry in ARCHITECTURES.values())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_what_an_architecture_does_not_offer_is_refused_with_what_it_does(name: str):
    entry = ARCHITECTURES[name]
    for kind in set(KINDS).difference(entry.kinds):
        wanted = HookPoint(1, kind)
        with pytest.raises(UnsupportedError) as refused:
            place_of(entry, wanted, 3)
        assert str(wanted) in refused.value.message
        assert all(str(HookPoint(1, offered)) in refused.value.remedy for offered in entry.kinds)


def test_it_is_refused_before_anything_starts(tmp_path: Path):
    config = {"architectures": ["Mamba2ForCausalLM"], "hidden_size": 64, "num_hidden_layers": 3}
    (tmp_path / "config.json").write_text(json.dumps(config))
    check_model(str(tmp_path), make_watchlist([1]))
    with pytest.raises(UnsupportedError, match=r"blocks\.1\.mlp\.hook_in.*cannot be tapped"):
        check_model(str(tmp_path), make_watchlist([HookPoint(1, "mlp_in")]))


def test_heads_that_tensor_parallel_workers_share_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tap, "get_tensor_model_parallel_world_size", lambda: 2)
    watchlist = make_watchlist([HookPoint(1, "attn_z")])
    with pytest.raises(UnsupportedError, match=r"attn\.hook_z.*only some of the heads"):
        make_taps(LlamaForCausalLM(), watchlist.sites, 8)


def test_rows_of_another_width_than_the_heads_have_together_are_refused(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(tap, "get_tensor_model_parallel_world_size", lambda: 1)
    model = LlamaForCausalLM()
    for layer in model.model.layers:
        layer.self_attn.o_proj.input_size = 64
    (made,) = make_taps(model, make_watchlist([HookPoint(1, "attn_z")]).sites, 8)
    assert made.module is model.model.layers[1].self_attn.o_proj
    wide = make_watchlist([HookPoint(1, "attn_z")], d_model=96)
    with pytest.raises(UnsupportedError, match=r"rows of 96 at blocks\.1\.attn\.hook_z.*has 64"):
        make_taps(model, wide.sites, 8)
    assert np.isnan(made.scores.numpy()).all()


@pytest.mark.parametrize("model_type", ["qwen3", "gemma2", "gpt2", "mixtral"])
def test_the_reference_of_verify_reads_hugging_face_s_model_at_the_same_places(
    model_type: str, tmp_path: Path
):
    model = make_model(tmp_path / "model", model_type, **TINY.get(model_type, {}))
    (name,) = json.loads((model / "config.json").read_text())["architectures"]
    watchlist = make_watchlist([HookPoint(1, kind) for kind in ARCHITECTURES[name].inside])
    wl.save(watchlist, tmp_path / "w")
    facts = SimpleNamespace(model=str(model), revision=None, trust_remote_code=False)
    (reference,) = compute(cast(EngineFacts, facts), tmp_path / "w", [TOKENS])
    expected = [
        wl.encode(inputs_at(model, TOKENS, site.hook_point), site) for site in watchlist.sites
    ]
    np.testing.assert_allclose(reference.scores, np.concatenate(expected, axis=1), atol=1e-4)


@pytest.mark.parametrize(
    ("hook_point", "place"),
    [
        (HookPoint(0, "resid_pre"), 0),
        (HookPoint(1, "resid_pre"), 1),  # as it leaves layer 0, which the norm of layer 1 adds up
        (HookPoint(0), 1),
        (HookPoint(2), 2),  # the last: the final norm adds it up
        (HookPoint(1, "mlp_out"), 1),
        (HookPoint(2, "attn_z"), 2),
    ],
    ids=str,
)
def test_a_site_is_on_the_stage_of_the_layer_in_which_it_is_tapped(
    hook_point: HookPoint, place: int
):
    assert place_of(ARCHITECTURES["LlamaForCausalLM"], hook_point, 3) == place
