"""Whatever vLLM makes of a batch, each row is put down to its request and its position."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from live_engine import Answer, Ask, drive, scheduler_of
from tiny_models import Models
from watched_engine import WatchedEngine

pytestmark = pytest.mark.server


def prompt_of(seed: int, length: int) -> list[int]:
    return np.random.default_rng(seed).integers(4, 256, length).tolist()


def drive_and_look(llm: Any, asks: Sequence[Ask]) -> tuple[dict[str, Answer], dict[str, int], set]:
    """Answers, how often each request was preempted, and what kinds of batches there were."""
    preemptions: dict[str, int] = {}
    kinds = set()
    scheduler = scheduler_of(llm)
    schedule = scheduler.schedule

    def look(*args: Any, **kwargs: Any) -> Any:
        output = schedule(*args, **kwargs)
        for request in scheduler.requests.values():
            preemptions[request.request_id] = request.num_preemptions
        counts = output.num_scheduled_tokens.values()
        kinds.add((any(count > 1 for count in counts), any(count == 1 for count in counts)))
        return output

    scheduler.schedule = look
    try:
        return drive(llm, asks), preemptions, kinds
    finally:
        scheduler.schedule = schedule


def look_at_engine(llm: Any) -> tuple[str, int, bool]:
    """Its scheduler, how many steps it has under way at once, and whether V2 runs its model."""
    core = llm.llm_engine.engine_core.engine_core
    runner = core.model_executor.driver_worker.worker.model_runner
    return type(core.scheduler).__name__, core.batch_queue_size, hasattr(runner, "req_states")


def test_a_step_is_scheduled_before_the_one_before_it_is_done(
    watched: WatchedEngine, request: pytest.FixtureRequest
):
    is_v2 = request.node.callspec.params["watched"] == "v2_async"
    assert watched.engine.call(look_at_engine) == ("AsyncScheduler", 2, is_v2)


def test_chunks_of_prompts_among_tokens_being_decoded(watched: WatchedEngine, models: Models):
    lengths = [90, 5, 40, 70, 17, 33]
    asks = [
        Ask(f"mixed-{i}", prompt_of(i, length), max_tokens=6 + 3 * i, at_step=2 * i)
        for i, length in enumerate(lengths)
    ]
    answers, _, kinds = watched.engine.call(drive_and_look, asks)
    assert (True, True) in kinds, "no batch held both a chunk and a decode"
    for ask in asks:
        watched.assert_exact(models.base, ask.prompt, answers[ask.id])


def test_what_a_preempted_request_computes_again_changes_no_decision(
    watched: WatchedEngine, models: Models
):
    asks = [Ask(f"crowd-{i}", prompt_of(10 + i, 40), max_tokens=50) for i in range(4)]
    alone = watched.engine.drive(asks[:2]) | watched.engine.drive(asks[2:])
    answers, preemptions, _ = watched.engine.call(drive_and_look, asks)
    assert sum(preemptions.values()) > 0, "nothing was preempted"
    num_decisions = 0
    for ask in asks:
        answer = answers[ask.id]
        assert answer.token_ids == alone[ask.id].token_ids
        record = watched.assert_exact(models.base, ask.prompt, answer)
        was_preempted = preemptions[answer.req_id] > 0
        assert (record.coverage.scheduled > record.num_tokens - 1) == was_preempted
        assert record.counts == watched.record(alone[ask.id].req_id).counts
        decisions = watched.decisions(answer.req_id)
        assert decisions == watched.decisions(alone[ask.id].req_id)
        num_decisions += len(decisions)
    assert num_decisions > 2 * len(asks)
