"""`action: stop`, in every state that a request can be in."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from live_engine import Answer, Ask, drive, scheduler_of
from tiny_models import Models
from watched_engine import WatchedEngine

pytestmark = pytest.mark.server

PROMPT = np.random.default_rng(8).integers(4, 256, 40).tolist()
STOPPED = (["stop"], ["saeguard:stop"])
STOP_ME = {"extra_args": {"tenant": "stop me"}}


def end_of(answer: Answer) -> tuple[list[Any], list[Any]]:
    return answer.finish_reasons, answer.stop_reasons


def drive_slowly(llm: Any, asks: Sequence[Ask]) -> tuple[dict[str, Answer], float]:
    """Answers, and which part of the KV cache is in use after them. Steps of a tiny model are too
    short for a monitor on a busy machine.
    """
    answers = drive(llm, asks, lambda *_: time.sleep(0.02))
    return answers, scheduler_of(llm).kv_cache_manager.usage


def test_the_request_ends_and_the_others_of_its_batch_do_not(
    watched: WatchedEngine, models: Models
):
    others = [Ask(f"other-{i}", PROMPT[i:], max_tokens=40) for i in range(2)]
    alone = watched.engine.drive(others)
    stopped = Ask("stopped", PROMPT, max_tokens=150, params=STOP_ME)
    answers, usage = watched.engine.call(drive_slowly, [*others, stopped])
    assert end_of(answers["stopped"]) == STOPPED
    assert len(answers["stopped"].token_ids[0]) < 100
    for ask in others:
        assert answers[ask.id].token_ids == alone[ask.id].token_ids
        assert end_of(answers[ask.id]) == (["length"], [None])
        watched.assert_exact(models.base, ask.prompt, answers[ask.id])
    record = watched.record(answers["stopped"].req_id)
    assert (record.reason, record.stop_outcome) == ("saeguard:stop", "stopped")
    assert record.coverage.observed == record.coverage.scheduled
    assert usage == 0


def test_each_of_n_samples_is_stopped(watched: WatchedEngine):
    params = {**STOP_ME, "n": 3, "temperature": 1.0}
    answers, usage = watched.engine.call(drive_slowly, [Ask("n", PROMPT, 150, params=params)])
    assert end_of(answers["n"]) == (["stop"] * 3, ["saeguard:stop"] * 3)
    assert usage == 0
