"""One watched engine for all the tests of vLLM's features: its start takes most of their time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from live_engine import V1_ASYNC, V2
from tiny_models import Models, make_models
from watched_engine import WatchedEngine, watched_engine

# Synchronous scheduling, which the CPU build does of itself, is what the other tests run.
SETUPS = {
    "v1_async": (V1_ASYNC, True),
    "v2_async": (V2, True),
}


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return make_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session", params=SETUPS)
def watched(
    request: pytest.FixtureRequest, models: Models, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WatchedEngine]:
    """Long prompts are computed in chunks of 32 tokens, and a few requests are more than its KV
    cache holds, so that some are preempted.
    """
    env, is_async = SETUPS[request.param]
    with watched_engine(
        tmp_path_factory.mktemp("watched"), models.base, env, is_async=is_async,
        max_num_batched_tokens=32, max_num_seqs=4, block_size=32, num_gpu_blocks_override=9,
        enable_prefix_caching=False, enable_lora=True, max_loras=3, max_lora_rank=8,
    ) as watched:  # fmt: skip
        yield watched
