"""What vLLM takes from its prefix cache is scored as if it had been computed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from live_engine import V2, Answer, Ask
from tiny_models import Models
from watched_engine import WatchedEngine, watched_engine

from saeguard.monitor.sites import HookPoint

pytestmark = pytest.mark.server

INNER = (HookPoint(1, "attn_out"), HookPoint(2, "mlp_in"))
BLOCK_SIZE = 32
NUM_BLOCKS = 13
SETUPS = {"v1": ({}, False), "v2_async": (V2, True)}


@pytest.fixture(scope="module", params=SETUPS)
def caching(
    request: pytest.FixtureRequest, models: Models, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WatchedEngine]:
    """Chunks of prompts end within blocks; four long requests are more than its KV cache holds."""
    env, is_async = SETUPS[request.param]
    with watched_engine(
        tmp_path_factory.mktemp("caching"), models.base, env, is_async=is_async, inner=INNER,
        max_num_batched_tokens=50, max_num_seqs=4, block_size=BLOCK_SIZE,
        num_gpu_blocks_override=NUM_BLOCKS, enable_prefix_caching=True,
        enable_lora=True, max_loras=1, max_lora_rank=8,
    ) as watched:  # fmt: skip
        yield watched


def prompt_of(seed: int, length: int) -> list[int]:
    return np.random.default_rng(seed).integers(4, 256, length).tolist()


def ask(watched: WatchedEngine, name: str, prompt: list[int], salt: str, **more: Any) -> Answer:
    return watched.engine.drive([Ask(name, prompt, salt=salt, **more)])[name]


def test_a_cached_prompt_has_the_scores_and_decisions_of_a_computed_one(
    caching: WatchedEngine, models: Models
):
    prompt = prompt_of(1, 110)
    answers = [
        ask(caching, name, prompt, salt, max_tokens=20)
        for name, salt in (("first", "one"), ("again", "one"), ("apart", "two"))
    ]
    records = [caching.assert_known(models.base, prompt, answer) for answer in answers]
    assert [record.coverage.cached for record in records] == [0, 96, 0]
    first, again, apart = (caching.decisions(answer.req_id) for answer in answers)
    assert again == first == apart
    assert [position for _, position, _ in again if position < 96], "no rule fired in the prefix"
    assert records[0].counts == records[1].counts == records[2].counts


def test_an_adapter_shares_nothing_with_the_bare_model(caching: WatchedEngine, models: Models):
    prompt = prompt_of(4, 70)
    red = ("red", 1, str(models.adapters["red"]))
    cached = []
    for name, lora in (("bare", None), ("red", red), ("red-again", red)):
        answer = ask(caching, name, prompt, "loras", lora=lora)
        record = caching.assert_known(models.merged["red"] if lora else models.base, prompt, answer)
        cached.append(record.coverage.cached)
    assert cached == [0, 0, 64]


def test_a_chat_of_three_turns_knows_its_own_answers(caching: WatchedEngine, models: Models):
    history, cached = [], []
    for turn in range(3):
        prompt = [*history, *prompt_of(20 + turn, 11)]
        answer = ask(caching, f"turn-{turn}", prompt, "chat", max_tokens=34)
        record = caching.assert_known(models.base, prompt, answer)
        cached.append(record.coverage.cached)
        if history:
            assert record.coverage.cached >= len(history) - BLOCK_SIZE
        history = [*prompt, *answer.token_ids[0]]
    assert cached[0] == 0 < cached[1] < cached[2]


def test_requests_of_one_batch_share_what_one_of_them_computes(
    caching: WatchedEngine, models: Models
):
    prompt = prompt_of(2, 40)
    asks = [Ask(f"twin-{i}", prompt, salt="twins", max_tokens=5) for i in range(3)]
    answers = caching.engine.drive(asks)
    records = [caching.assert_known(models.base, prompt, answers[each.id]) for each in asks]
    assert sum(record.coverage.cached for record in records) == 2 * BLOCK_SIZE


def test_preempted_requests_that_share_a_prefix_are_accounted_for_to_the_last_row(
    caching: WatchedEngine, models: Models
):
    system = prompt_of(3, 70)
    prompts = {f"crowd-{i}": [*system, *prompt_of(30 + i, 10 + 20 * i)] for i in range(5)}
    asks = [Ask(name, prompt, salt="crowd", max_tokens=45) for name, prompt in prompts.items()]
    answers = caching.engine.drive(asks)
    records = [
        caching.assert_known(models.base, prompt, answers[name]) for name, prompt in prompts.items()
    ]
    computed_again = [r.coverage.scheduled - (r.num_tokens - 1) for r in records]
    assert max(computed_again) > 0, "nothing was preempted"
    assert min(computed_again) >= 0
    assert sum(record.coverage.cached for record in records) > 0
