"""Every entry of the architecture table gives Hugging Face's residual stream, on a real engine."""

from __future__ import annotations

import numpy as np
import pytest
from engine_run import EngineRun, run_engine
from tiny_models import NUM_LAYERS, hidden_states, make_model, make_watchlist

from saeguard.integrations.vllm.architectures import ARCHITECTURES
from saeguard.monitor import watchlist as wl
from saeguard.monitor.messages import RequestStart

pytestmark = pytest.mark.server

_MOE = {"num_experts_per_tok": 2, "moe_intermediate_size": 32}
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
    "DeepseekV2ForCausalLM": ("deepseek_v2", _DEEPSEEK),
    "DeepseekV3ForCausalLM": (
        "deepseek_v3",
        {**_DEEPSEEK, "q_lora_rank": 32, "first_k_dense_replace": NUM_LAYERS},
    ),
    "GPT2LMHeadModel": (
        "gpt2",
        {"n_embd": 64, "n_layer": 3, "n_head": 2, "n_positions": 512, "tie_word_embeddings": True},
    ),
    "Gemma2ForCausalLM": ("gemma2", {"tie_word_embeddings": True, "query_pre_attn_scalar": 32}),
    "Gemma3ForCausalLM": (
        "gemma3_text",
        {"tie_word_embeddings": True, "query_pre_attn_scalar": 32, "sliding_window": 256},
    ),
    "GptOssForCausalLM": ("gpt_oss", {**_MOE, "num_local_experts": 4, "intermediate_size": 64}),
    "GraniteForCausalLM": ("granite", {"residual_multiplier": 0.5, "embedding_multiplier": 2.0}),
    "LlamaForCausalLM": ("llama", {}),
    "MistralForCausalLM": ("mistral", {}),
    "MixtralForCausalLM": ("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "Phi3ForCausalLM": ("phi3", {}),
    "Qwen2ForCausalLM": ("qwen2", {}),
    "Qwen3ForCausalLM": ("qwen3", {}),
    "Qwen3MoeForCausalLM": ("qwen3_moe", {**_MOE, "num_experts": 4, "decoder_sparse_step": 1}),
    "StablelmForCausalLM": ("stablelm", {}),
}
# On random tiny models vLLM's CPU build and Transformers differ in DeepSeek's attention itself,
# over more than one token, and in V3's expert routing. The first token attends to itself alone:
# there the streams agree exactly, and a wrong tap point would show.
FIRST_TOKEN_ONLY = {"DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM"}
# Entries that cannot be tried on a CPU, with the reason.
UNTRIED = {"DeepseekForCausalLM": "Transformers has no model of that type to compare with"}

PROMPTS = [[5, 9, 17, 40, 41, 42, 60, 7], [100, 101, 30]]
WATCHLIST = make_watchlist(list(range(NUM_LAYERS)))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> EngineRun:
    """One process that serves every tiny model in turn, eagerly: compilation has tests of its
    own.
    """
    work = tmp_path_factory.mktemp("architectures")
    models = [make_model(work / name, kind, **extra) for name, (kind, extra) in TINY.items()]
    return run_engine(
        work / "run", models[0], WATCHLIST, PROMPTS, max_tokens=4,
        more_jobs=[(path, {}) for path in models[1:]],
        engine={"enforce_eager": True}, env={"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}, timeout_s=600,
    )  # fmt: skip


def test_every_entry_is_tried_or_says_why_not():
    assert set(ARCHITECTURES) == set(TINY) | set(UNTRIED)


@pytest.mark.parametrize("name", TINY)
def test_scores_equal_those_of_hugging_face_hidden_states(name: str, run: EngineRun):
    """All layers, the last one included, to 1e-3 relative; prompt and generated tokens."""
    directory = next(path for path in run.by_model if path.endswith(f"/{name}"))
    result = run.by_model[directory]
    assert "error" not in result, result
    starts = [m for m in run.messages if isinstance(m, RequestStart) and m.model == directory]
    assert len(starts) == len(PROMPTS)
    for start in starts:
        output = result["outputs"][PROMPTS.index(start.prompt_token_ids)]
        token_ids = [*start.prompt_token_ids, *output]
        streams = hidden_states(directory, token_ids)
        expected = np.concatenate([wl.encode(streams[s.layer], s) for s in WATCHLIST.sites], axis=1)
        rows = run.scores_of(start.req_id)
        assert sorted(rows) == list(range(len(token_ids) - 1))
        got = np.stack([rows[position] for position in sorted(rows)])
        num_compared = 1 if name in FIRST_TOKEN_ONLY else len(got)
        error = np.abs(got - expected[:-1])[:num_compared]
        assert error.max() <= 1e-3 * np.abs(expected[:num_compared]).max()
