"""vLLM itself on a GPU, with CUDA graphs and torch.compile, as it runs by default: every row of
every request has Hugging Face's scores, on both model runners.

Not proven here, for it needs more than one GPU: tensor and pipeline parallelism.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from live_engine import Answer, Ask
from tiny_models import make_model
from watched_engine import WatchedEngine, relative_error, watched_engine

from saeguard.monitor.sites import HookPoint

pytest.importorskip("vllm")
pytestmark = [pytest.mark.server, pytest.mark.gpu]

TOLERANCE = 2e-2
"""Attention kernels multiply with fewer bits than Hugging Face on a CPU does."""

INNER = (HookPoint(1, "mlp_in"), HookPoint(1, "attn_out"), HookPoint(2, "resid_pre"))
PROMPTS = {f"r{i}": list(range(4 + i, 24 + 9 * i)) for i in range(6)}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With heads as large as attention kernels for GPUs want them."""
    return make_model(tmp_path_factory.mktemp("model"), head_dim=64)


@pytest.fixture(scope="module", params=["FULL", "PIECEWISE", "FULL_AND_PIECEWISE"])
def mode(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module", params=["0", "1"], ids=["v1", "v2"])
def watched(
    request: pytest.FixtureRequest, mode: str, model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WatchedEngine]:
    env = {"VLLM_USE_V2_MODEL_RUNNER": request.param, "TORCHDYNAMO_DISABLE": "0"}
    with watched_engine(
        tmp_path_factory.mktemp("engine"), model, env, inner=INNER, enforce_eager=False,
        compilation_config={"cudagraph_mode": mode}, gpu_memory_utilization=0.3,
        max_num_batched_tokens=64, max_num_seqs=8, enable_prefix_caching=False,
    ) as engine:  # fmt: skip
        yield engine


def num_graphs(llm: Any) -> int:
    """Runs in the engine's process. How many CUDA graphs its worker has captured."""
    (captured,) = llm.collective_rpc(_num_graphs)
    return int(captured)


def _num_graphs(_worker: Any) -> int:
    from vllm.compilation.counter import compilation_counter

    return compilation_counter.num_cudagraph_captured


def assert_scores(watched: WatchedEngine, model: Path, prompt: list[int], answer: Answer) -> None:
    record = watched.record(answer.req_id)
    got, coverage = record.score_array(), record.coverage
    assert coverage.observed == coverage.scheduled >= len(got) > len(prompt)
    token_ids = [*prompt, *answer.token_ids[0]][: len(got)]
    expected = watched.expected(model, token_ids)
    # The first position's scores are not recorded.
    assert relative_error(got[1:], expected[1:]) <= TOLERANCE


def test_every_row_of_a_mixed_batch_has_hugging_face_s_scores(watched: WatchedEngine, model: Path):
    """Steps of many sizes: prompts in chunks beside answers, so that graphs run padded."""
    asks = [Ask(name, prompt, 16, at_step=i) for i, (name, prompt) in enumerate(PROMPTS.items())]
    answers = watched.engine.drive(asks)
    for name, prompt in PROMPTS.items():
        assert_scores(watched, model, prompt, answers[name])


def test_graphs_were_captured_with_the_taps_in_them(watched: WatchedEngine):
    assert watched.engine.call(num_graphs) > 0
