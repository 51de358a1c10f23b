"""What saeguard reads off vLLM's configuration: who a worker is, and what cannot be watched."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("vllm")

from vllm.config import ParallelConfig

from saeguard.integrations.vllm.settings import check_supported, request_prefix, worker_number
from saeguard.monitor.errors import UnsupportedError


def engine_config(
    engine: int | None = None, is_moe: bool = False, enable_sp: bool = False, **parallel: Any
) -> Any:
    """As an engine's processes have it; `engine` is its data-parallel rank, of two."""
    config = ParallelConfig(data_parallel_size=1 if engine is None else 2, **parallel)
    if engine is not None:  # as `EngineCoreProc.run_engine_core` does
        config.data_parallel_rank_local = config.data_parallel_index = engine
        if is_moe:
            config.data_parallel_rank = engine
        else:
            config.reconfigure_for_independent_dp_rank()
    return SimpleNamespace(
        parallel_config=config,
        speculative_config=None,
        compilation_config=SimpleNamespace(pass_config=SimpleNamespace(enable_sp=enable_sp)),
        model_config=SimpleNamespace(
            runner_type="generate", dtype="torch.bfloat16", architectures=["Qwen3MoeForCausalLM"]
        ),
    )


@pytest.mark.parametrize("is_moe", [False, True])
def test_no_two_workers_of_a_server_have_the_same_number(is_moe: bool):
    numbers = [
        worker_number(SimpleNamespace(vllm_config=config, rank=rank))
        for engine in (0, 1)
        for config in [
            engine_config(engine, is_moe, tensor_parallel_size=2, pipeline_parallel_size=2)
        ]
        for rank in range(4)
    ]
    assert numbers == list(range(8))


def test_request_ids_are_left_alone_unless_clients_of_several_engines_choose_them(
    monkeypatch: pytest.MonkeyPatch,
):
    configs = [engine_config(None), engine_config(0), engine_config(1)]
    assert [request_prefix(config) for config in configs] == ["", "", ""]
    monkeypatch.setenv("VLLM_DISABLE_REQUEST_ID_RANDOMIZATION", "1")
    assert [request_prefix(config) for config in configs] == ["", "", "dp1/"]


def test_all_ways_of_parallelism_on_one_node_are_supported():
    for engine in (None, 0, 1):
        config = engine_config(engine, tensor_parallel_size=2, pipeline_parallel_size=2)
        check_supported(config, "cuda")


@pytest.mark.parametrize(
    ("parallel", "speculative", "refused"),
    [
        ({"nnodes": 2, "tensor_parallel_size": 4}, None, "an engine on several nodes"),
        ({"prefill_context_parallel_size": 2}, None, "prefill context parallelism"),
        (
            {"enable_sp": True, "tensor_parallel_size": 2},
            None,
            "sequence parallelism within the graph",
        ),
        ({"enable_dbo": True}, None, "dual batch overlap"),
        ({}, {"method": "eagle3"}, "speculative decoding with eagle3"),
        (
            {},
            {"method": "draft_model", "enable_adaptive_verification": True},
            "adaptive verification of drafts",
        ),
    ],
)
def test_what_would_make_the_account_wrong_is_refused_by_name(
    parallel: dict[str, Any], speculative: dict[str, Any] | None, refused: str
):
    config = engine_config(**parallel)
    config.speculative_config = SimpleNamespace(**speculative) if speculative else None
    with pytest.raises(UnsupportedError, match=f"^{refused} is not supported yet"):
        check_supported(config, "cuda")
