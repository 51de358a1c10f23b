"""A model with Mamba layers: every row is accounted for and right, computed or from the cache."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from live_engine import Ask
from tiny_models import make_model
from watched_engine import WatchedEngine, watched_engine

pytestmark = pytest.mark.server

CHUNK = 64
"""Tokens of one step: prompts are computed in several."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(
        tmp_path_factory.mktemp("hybrid"), "granitemoehybrid",
        layer_types=["mamba", "attention", "mamba"], num_local_experts=4, num_experts_per_tok=2,
        shared_intermediate_size=32, mamba_n_heads=4, mamba_d_head=32, mamba_d_state=16,
        mamba_n_groups=1,
    )  # fmt: skip


@pytest.fixture(scope="module")
def hybrid(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WatchedEngine]:
    with watched_engine(
        tmp_path_factory.mktemp("watched"), model, max_num_batched_tokens=CHUNK, max_num_seqs=4,
        block_size=32, enable_prefix_caching=True,
    ) as watched:  # fmt: skip
        yield watched


def prompt_of(seed: int, length: int) -> list[int]:
    return np.random.default_rng(seed).integers(4, 256, length).tolist()


def test_chunks_of_prompts_in_mixed_batches_have_the_scores_of_whole_ones(
    hybrid: WatchedEngine, model: Path
):
    prompts = {f"r{i}": prompt_of(i, 20 + 45 * i) for i in range(4)}
    asks = [Ask(name, prompt, at_step=i) for i, (name, prompt) in enumerate(prompts.items())]
    answers = hybrid.engine.drive(asks)
    records = [hybrid.assert_known(model, prompts[name], answers[name]) for name in prompts]
    assert [record.coverage.cached for record in records] == [0] * 4


def test_what_the_cache_has_of_a_prompt_is_known_by_the_hashes_of_its_blocks(
    hybrid: WatchedEngine, model: Path
):
    system = prompt_of(10, 150)
    cached, decisions = [], []
    for name, end in (("first", []), ("again", []), ("other", [7, 8, 9])):
        prompt = [*system, *end]
        answer = hybrid.engine.drive([Ask(name, prompt, max_tokens=20)])[name]
        cached.append(hybrid.assert_known(model, prompt, answer).coverage.cached)
        decisions.append(hybrid.decisions(answer.req_id))
    assert cached[0] == 0 < cached[1] == cached[2]
    assert decisions[0] == decisions[1]
