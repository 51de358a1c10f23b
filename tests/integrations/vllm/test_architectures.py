"""Every entry of the architecture table gives Hugging Face's residual stream, what it names inside
a layer, and its router's weights and logits where it names one, on a real engine.
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_run import EngineRun, run_engine, write_config
from expert_rules import rules_on
from live_engine import EngineFailed
from tiny_models import (
    D_MODEL,
    NUM_LAYERS,
    hidden_states,
    inputs_at,
    make_model,
    make_watchlist,
    router_inputs,
)

from saeguard.integrations.vllm.architectures import ARCHITECTURES
from saeguard.monitor import watchlist as wl
from saeguard.monitor.compile import compile_watchlist
from saeguard.monitor.messages import RequestStart, TapStatus
from saeguard.monitor.sites import HookPoint

pytestmark = [pytest.mark.server, pytest.mark.offline]

_MOE = {"num_experts_per_tok": 2, "moe_intermediate_size": 32}
_GROUPED = {**_MOE, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1}
_LOCAL = {"num_experts_per_tok": 2, "num_local_experts": 4}
_MAMBA = {
    "mamba_n_heads": 4,
    "mamba_d_head": 32,
    "mamba_d_state": 16,
    "mamba_n_groups": 1,
}
_CONV = {"layer_types": ["conv", "full_attention", "conv"], "tie_word_embeddings": True}
_DEEPSEEK = {
    **_MOE,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "kv_lora_rank": 512,  # with the 64 below, the one size that MLA kernels take
    "q_lora_rank": None,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 32,
    "v_head_dim": 32,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "first_k_dense_replace": 1,
}
# vLLM class -> (Hugging Face model type, overrides of the tiny configuration)
TINY = {
    "CohereForCausalLM": ("cohere", {"tie_word_embeddings": True}),
    "Cohere2MoeForCausalLM": (
        "cohere2_moe",
        {"num_experts": 4, "num_experts_per_tok": 2, "tie_word_embeddings": True},
    ),
    "DeepseekV2ForCausalLM": ("deepseek_v2", _DEEPSEEK),
    "DeepseekV3ForCausalLM": (
        "deepseek_v3",
        {**_DEEPSEEK, "q_lora_rank": 32, "first_k_dense_replace": NUM_LAYERS},
    ),
    "Ernie4_5_MoeForCausalLM": (
        "ernie4_5_moe",
        {
            "moe_num_experts": 4,
            "moe_k": 2,
            "moe_intermediate_size": 32,
            "moe_layer_start_index": 1,
            "moe_layer_end_index": 2,
            "tie_word_embeddings": True,
        },
    ),
    "ExaoneMoeForCausalLM": (
        "exaone_moe",
        {
            **_GROUPED,
            "num_experts": 4,
            "num_shared_experts": 1,
            "layer_types": ["sliding_attention", "full_attention", "full_attention"],
            "sliding_window": 64,
        },
    ),
    "FalconH1ForCausalLM": ("falcon_h1", {**_MAMBA, "mamba_d_ssm": 128, "mamba_chunk_size": 64}),
    "GPT2LMHeadModel": (
        "gpt2",
        {"n_embd": 64, "n_layer": 3, "n_head": 2, "n_positions": 512, "tie_word_embeddings": True},
    ),
    "Gemma2ForCausalLM": ("gemma2", {"tie_word_embeddings": True, "query_pre_attn_scalar": 32}),
    "Gemma3ForCausalLM": (
        "gemma3_text",
        {"tie_word_embeddings": True, "query_pre_attn_scalar": 32, "sliding_window": 256},
    ),
    "Glm4MoeForCausalLM": (
        "glm4_moe",
        {**_GROUPED, "n_routed_experts": 4, "n_shared_experts": 1, "routed_scaling_factor": 1.5},
    ),
    "GptOssForCausalLM": ("gpt_oss", {**_MOE, "num_local_experts": 4, "intermediate_size": 64}),
    "GraniteForCausalLM": ("granite", {"residual_multiplier": 0.5, "embedding_multiplier": 2.0}),
    "GraniteMoeForCausalLM": ("granitemoe", {**_LOCAL, "residual_multiplier": 0.5}),
    "GraniteMoeHybridForCausalLM": (
        "granitemoehybrid",
        {
            **_LOCAL,
            **_MAMBA,
            "shared_intermediate_size": 32,
            "layer_types": ["mamba", "attention", "mamba"],
        },
    ),
    "GraniteMoeSharedForCausalLM": (
        "granitemoeshared",
        {**_LOCAL, "residual_multiplier": 0.5, "shared_intermediate_size": 32},
    ),
    "Lfm2ForCausalLM": (
        "lfm2",
        {
            **_CONV,
            "conv_dim": 64,
            "block_dim": 64,
            "block_ff_dim": 128,
            "block_multiple_of": 32,
            "block_auto_adjust_ff_dim": False,
            "block_ffn_dim_multiplier": 1.0,
        },
    ),
    "Lfm2MoeForCausalLM": (
        "lfm2_moe",
        {**_MOE, **_CONV, "num_experts": 4, "num_dense_layers": 1},
    ),
    "LlamaForCausalLM": ("llama", {}),
    "Mamba2ForCausalLM": (
        "mamba2",
        {"num_heads": 4, "head_dim": 32, "state_size": 16, "n_groups": 1, "chunk_size": 64},
    ),
    "MistralForCausalLM": ("mistral", {}),
    "MixtralForCausalLM": ("mixtral", _LOCAL),
    "NemotronHForCausalLM": (
        "nemotron_h",  # whose experts vLLM runs on no CPU
        {
            "layers_block_type": ["linear_attention", "full_attention", "mlp"],
            "ssm_state_size": 16,
            "mamba_num_heads": 4,
            "mamba_head_dim": 32,
            "n_groups": 1,
            "chunk_size": 64,
        },
    ),
    "OlmoeForCausalLM": (
        "olmoe",
        {"num_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 32},
    ),
    "Phi3ForCausalLM": ("phi3", {}),
    "Qwen2ForCausalLM": ("qwen2", {}),
    "Qwen2MoeForCausalLM": (
        "qwen2_moe",
        {**_MOE, "num_experts": 4, "shared_expert_intermediate_size": 32},
    ),
    "Qwen3ForCausalLM": ("qwen3", {"head_dim": 64}),  # so that its heads are wider than d_model
    "Qwen3MoeForCausalLM": ("qwen3_moe", {**_MOE, "num_experts": 4, "decoder_sparse_step": 1}),
    "StablelmForCausalLM": ("stablelm", {}),
    "Zamba2ForCausalLM": (
        "zamba2",
        {
            "layers_block_type": ["mamba", "hybrid", "mamba"],
            "hybrid_layer_ids": [1],
            "mamba_d_state": 16,
            "n_mamba_heads": 4,
            "mamba_headdim": 32,
            "num_key_value_heads": 2,
            "attention_head_dim": 64,
            "tie_word_embeddings": True,
        },
    ),
}
# On random tiny models vLLM's CPU build and Transformers differ in DeepSeek's and LFM2's attention
# itself, over more than one token, and in DeepSeek V3's expert routing. The first token attends to
# itself alone: there the streams agree exactly, and a wrong tap point would show.
FIRST_TOKEN_ONLY = {
    "DeepseekV2ForCausalLM",
    "DeepseekV3ForCausalLM",
    "Lfm2ForCausalLM",
    "Lfm2MoeForCausalLM",
}
# Entries that cannot be tried on a CPU, with the reason.
UNTRIED = {"DeepseekForCausalLM": "Transformers has no model of that type to compare with"}
# How vLLM's CPU build fails to serve some classes at all, watched or not, in older releases.
_NO_MLA = "cannot import name 'compile_flash_attn_varlen_func_from_specs'"
UNSERVED = {
    "DeepseekV2ForCausalLM": _NO_MLA,
    "DeepseekV3ForCausalLM": _NO_MLA,
    "ExaoneMoeForCausalLM": "'ExaoneMoeConfig' object has no attribute 'sliding_windows'",
    "GptOssForCausalLM": "expected scalar type BFloat16 but found Float",  # of attention sinks
}

# Directory of a model -> its class. All run eagerly but the last, whose router has the most to it:
# sigmoids, a bias to choose by, a constant that scales the weights.
TRIED = {name: name for name in TINY} | {"compiled": "Glm4MoeForCausalLM"}
ROUTED_LAYER = NUM_LAYERS - 1
INNER_LAYER = 1
NUM_EXPERTS = 4
VLLM = Path(str(find_spec("vllm").origin)).parent
# Looked for as a file, since importing vLLM takes seconds. Where it is not, vLLM's CPU build
# chooses experts amid their kernels, and its routers cannot be asked.
HAS_CPU_ROUTER = (VLLM / "model_executor/layers/fused_moe/router/cpu_router.py").exists()

PROMPTS = [[5, 9, 17, 40, 41, 42, 60, 7], [100, 101, 30]]
WATCHLIST = make_watchlist(list(range(NUM_LAYERS)))


def router_features(directory: Path) -> wl.Watchlist:
    """The weight and the logit of each expert, compiled from rules."""
    features = {
        f"{units}_{expert}": {"router": {"layer": ROUTED_LAYER}, "expert": expert, "units": units}
        for expert in range(NUM_EXPERTS)
        for units in ("weight", "logit")
    }
    return compile_watchlist(rules_on(directory, features))


@pytest.fixture(scope="module")
def watchlists(tmp_path_factory: pytest.TempPathFactory) -> dict[str, wl.Watchlist]:
    """All layers of every model, the router of the last one where there is one to be asked, and
    whatever else can be watched.
    """
    routers = router_features(tmp_path_factory.mktemp("rules")).sites
    watchlists = {}
    for name in TINY:
        is_asked = ARCHITECTURES[name].gate and HAS_CPU_ROUTER
        sites = [*WATCHLIST.sites, *inner_sites(name), *(routers if is_asked else ())]
        watchlists[name] = wl.build(WATCHLIST.d_model, sites)
    return watchlists


def inner_sites(name: str) -> list[wl.Site]:
    kinds = ARCHITECTURES[name].inside
    points = [HookPoint(INNER_LAYER, kind) for kind in kinds]
    points += [HookPoint(0, kind) for kind in kinds if kind == "resid_pre"]
    heads_width = 2 * TINY[name][1].get("head_dim", 32)
    widths = [heads_width if point.kind == "attn_z" else D_MODEL for point in points]
    return [
        make_watchlist([point], 3, width).sites[0]
        for point, width in zip(points, widths, strict=True)
    ]


@pytest.fixture(scope="module")
def runs(
    watchlists: dict[str, wl.Watchlist], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, EngineRun]:
    """Of each directory: one process that serves those that run eagerly, and one for the other."""
    work = tmp_path_factory.mktemp("architectures")
    *eager, compiled = TRIED
    runs = dict.fromkeys(eager, serve(work / "all", eager, watchlists, enforce_eager=True))
    return runs | {compiled: serve(work / "one", [compiled], watchlists, piecewise=True)}


def serve(
    work: Path,
    directories: list[str],
    watchlists: dict[str, wl.Watchlist],
    piecewise: bool = False,
    **engine: Any,
) -> EngineRun:
    """Every model in turn."""
    jobs: list[tuple[Path, dict[str, Any]]] = []
    for directory in directories:
        kind, extra = TINY[TRIED[directory]]
        model = make_model(work / directory, kind, **extra)
        (model / "watched").mkdir()
        config = write_config(model / "watched", watchlists[TRIED[directory]], work / "run" / "run")
        jobs.append((model, {"additional_config": {"saeguard": {"config": str(config)}}, **engine}))
    (first, its_engine), *more_jobs = jobs
    return run_engine(
        work / "run", first, WATCHLIST, PROMPTS, max_tokens=4, more_jobs=more_jobs,
        engine=its_engine, piecewise=piecewise, timeout_s=600,
    )  # fmt: skip


def test_every_entry_is_tried_or_says_why_not():
    assert set(ARCHITECTURES) == set(TINY) | set(UNTRIED)


@pytest.mark.parametrize("directory", TRIED)
def test_scores_equal_those_of_hugging_face(
    directory: str,
    runs: dict[str, EngineRun],
    watchlists: dict[str, wl.Watchlist],
    tmp_path: Path,
):
    """After all layers, the last one included, to 1e-3 relative, and of the router and inside a
    layer to 1e-4; prompt and generated tokens.
    """
    name, run = TRIED[directory], runs[directory]
    model = next(path for path in run.by_model if path.endswith(f"/{directory}"))
    result = run.by_model[model]
    if name in UNSERVED and UNSERVED[name] in result.get("error", ""):
        assert_unserved_unwatched(name, Path(model), tmp_path)
        pytest.skip(f"this vLLM serves no {name} on a CPU: {UNSERVED[name]}")
    assert "error" not in result, result
    starts = [m for m in run.messages if isinstance(m, RequestStart) and m.model == model]
    assert len(starts) == len(PROMPTS)
    for start in starts:
        output = result["outputs"][PROMPTS.index(start.prompt_token_ids)]
        token_ids = [*start.prompt_token_ids, *output]
        rows = run.scores_of(start.req_id)
        assert sorted(rows) == list(range(len(token_ids) - 1))
        num_compared = 1 if name in FIRST_TOKEN_ONLY else len(rows)
        got = np.stack([rows[position] for position in range(num_compared)])
        streams = hidden_states(model, token_ids)
        for site in watchlists[name].sites:
            layer = site.hook_point.layer
            match site.hook_point.kind:
                case "resid_post":
                    inputs, tolerance = streams[layer], 1e-3
                case "router":
                    inputs, tolerance = router_inputs(model, token_ids, layer), 1e-4
                case _:
                    inputs, tolerance = inputs_at(model, token_ids, site.hook_point), 1e-4
            expected = wl.encode(inputs, site)
            mine, got = np.split(got, [len(site.features)], axis=1)
            error = np.abs(mine - expected[:num_compared]).max() / np.abs(expected).max()
            assert error <= tolerance, site.hook_point
        assert got.shape[1] == 0


def assert_unserved_unwatched(name: str, model: Path, work: Path) -> None:
    """The error is vLLM's own: without saeguard it is the same."""
    with pytest.raises(EngineFailed, match=re.escape(UNSERVED[name])):
        run_engine(work, model, None, PROMPTS, max_tokens=4, engine={"enforce_eager": True})


@pytest.mark.skipif(HAS_CPU_ROUTER, reason="this vLLM's CPU build has a CPURouter, which is asked")
def test_a_router_that_cannot_be_asked_is_said_and_the_model_is_served(tmp_path: Path):
    model = make_model(tmp_path / "model", "mixtral", **_LOCAL)
    run = run_engine(
        tmp_path, model, router_features(tmp_path), PROMPTS, max_tokens=4,
        engine={"enforce_eager": True},
    )  # fmt: skip
    assert [len(output) for output in run.outputs] == [4] * len(PROMPTS)
    (dead,) = (m for m in run.messages if isinstance(m, TapStatus) and not m.alive)
    assert "router of layer 2 of MixtralForCausalLM" in dead.reason
    assert any("BLIND" in line and dead.reason in line for line in run.log.splitlines())
