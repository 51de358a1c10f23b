"""However a request ends, it ends once: its slots are free again and its account is closed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from live_engine import Answer, Ask, EngineFailed, drive, scheduler_of
from running_monitor import wait_for
from tiny_models import Models
from watched_engine import WatchedEngine

from saeguard.monitor.store import totals

pytestmark = pytest.mark.server

PROMPT = np.random.default_rng(6).integers(4, 256, 45).tolist()


def num_finished(watched: WatchedEngine) -> int:
    return totals(watched.store).get("requests/finished", 0) if watched.store.exists() else 0


def drive_and_count_blocks(llm: Any, asks: list[Ask]) -> tuple[dict[str, Answer], float]:
    """Answers, and which part of the KV cache is in use after them."""
    return drive(llm, asks), scheduler_of(llm).kv_cache_manager.usage


def test_every_ending_closes_the_account_of_its_request(watched: WatchedEngine, models: Models):
    before = num_finished(watched)
    plain = watched.engine.drive([Ask("plain", PROMPT, max_tokens=12)])["plain"]
    fifth = plain.token_ids[0][4]
    first = plain.token_ids[0].index(fifth)
    asks = [
        Ask("stop-token", PROMPT, max_tokens=12, params={"stop_token_ids": [fifth]}),
        Ask("stop-string", PROMPT, max_tokens=12, params={"stop": [f"w{fifth}"]}),
        Ask("longest", [*PROMPT, *PROMPT, *PROMPT, *PROMPT, *PROMPT], max_tokens=100, at_step=6),
        Ask("abort-prompt", PROMPT, abort_at_step=1),
        Ask("abort-answer", PROMPT, max_tokens=100, abort_at_step=20),
    ]
    answers, usage = watched.engine.call(drive_and_count_blocks, asks)
    assert answers["stop-token"].token_ids[0] == plain.token_ids[0][: first + 1]
    assert answers["stop-token"].finish_reasons == answers["stop-string"].finish_reasons == ["stop"]
    assert len(answers["longest"].token_ids[0]) == 256 - 5 * len(PROMPT)
    reasons = {
        "plain": "length_capped",
        "stop-token": "stopped",
        "stop-string": "aborted",  # what EngineCore is told when the text matches
        "longest": "length_capped",
        "abort-answer": "aborted",
    }
    answers["plain"] = plain
    for name, reason in reasons.items():
        record = watched.record(answers[name].req_id)
        assert (record.request_id, record.reason) == (name, reason)
        coverage = record.coverage
        assert coverage.observed == coverage.scheduled >= record.num_tokens - 1
    for name in ("plain", "stop-token", "longest"):
        prompt = PROMPT * 5 if name == "longest" else PROMPT
        watched.assert_exact(models.base, prompt, answers[name])
    wait_for(lambda: num_finished(watched) == before + 1 + len(asks))
    wait_for(lambda: watched.num_live() == 0)
    assert usage == 0


def test_a_request_that_is_gone_before_its_first_row_leaves_nothing(watched: WatchedEngine):
    before = num_finished(watched)
    running = [Ask(f"busy-{i}", PROMPT, max_tokens=10) for i in range(4)]
    answers = watched.engine.drive([*running, Ask("never-ran", PROMPT, abort_at_step=1)])
    assert answers["never-ran"].token_ids == []
    wait_for(lambda: num_finished(watched) == before + 5)
    wait_for(lambda: watched.num_live() == 0)
    assert watched.alerts(answers["never-ran"].req_id) == []


def test_a_request_that_vllm_refuses_is_never_heard_of(watched: WatchedEngine):
    before = num_finished(watched)
    with pytest.raises(EngineFailed, match="maximum"):
        watched.engine.drive([Ask("too-long", PROMPT * 6)])
    answer = watched.engine.drive([Ask("good", PROMPT)])["good"]
    watched.record(answer.req_id)
    wait_for(lambda: num_finished(watched) == before + 1)


def test_two_requests_with_one_id_are_two(watched: WatchedEngine, models: Models):
    one = watched.engine.drive([Ask("same", PROMPT)])["same"]
    other = watched.engine.drive([Ask("same", PROMPT[::-1])])["same"]
    records = [
        watched.assert_exact(models.base, PROMPT, one),
        watched.assert_exact(models.base, PROMPT[::-1], other),
    ]
    assert [record.request_id for record in records] == ["same", "same"]
    assert one.req_id != other.req_id
