"""What an engine does with requests, noted where it does it; some frames are lost on their way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from chaos_requests import next_turn
from live_engine import Answer, Ask, drive, scheduler_of

from saeguard.monitor.alerts import RequestRecord


@dataclass
class Drafts:
    """The last rows of a request in a frame that arrived."""

    end: int
    """Position behind them."""
    count: int
    is_lost: bool = False
    """A frame was lost after it."""

    def num_rejected(self, next_position: int) -> int:
        """When the request went on there."""
        return min(max(0, self.end - next_position), self.count)


@dataclass
class Truth:
    """What the engine has done, by vLLM's ids of its requests."""

    prompts: dict[str, list[int]] = field(default_factory=dict)
    """By the client's ids."""
    answers: dict[str, Answer] = field(default_factory=dict)
    num_requests: int = 0
    """Those that never left the queue included."""
    num_scheduled: Counter[str] = field(default_factory=Counter)
    num_cached: Counter[str] = field(default_factory=Counter)
    """Positions that were passed over: neither computed before nor at that time."""
    frontier: Counter[str] = field(default_factory=Counter)
    """Position behind the furthest one that was computed."""
    num_dropped: Counter[str] = field(default_factory=Counter)
    """Rows in frames that were lost, and drafts of which only such a frame could tell whether they
    were kept.
    """
    num_rejected: Counter[str] = field(default_factory=Counter)
    """Rows of drafts that the model did not keep."""
    last_drafts: dict[str, Drafts] = field(default_factory=dict)
    has_lost_rows: set[str] = field(default_factory=set)
    """Requests that were in a frame which was lost."""
    preempted: set[str] = field(default_factory=set)
    num_drafts: int = 0
    num_dropped_frames: int = 0
    num_mixed: int = 0
    """Steps with prompts and answers in them."""

    def note_step(self, output: Any) -> None:
        """What a scheduler has decided."""
        begins = {new.req_id: new.num_computed_tokens for new in output.scheduled_new_reqs}
        cached = output.scheduled_cached_reqs
        begins |= zip(cached.req_ids, cached.num_computed_tokens, strict=True)
        counts = output.num_scheduled_tokens
        for req_id, count in counts.items():
            begin, frontier = begins[req_id], self.frontier[req_id]
            self.num_scheduled[req_id] += count
            self.num_cached[req_id] += max(0, begin - frontier)
            self.frontier[req_id] = max(frontier, begin + count)
        self.preempted.update(output.preempted_req_ids or ())
        sizes = set(counts.values())
        self.num_mixed += 1 in sizes and max(sizes) > 1

    def note_frame(self, frame: Any, positions: list[int], is_lost: bool) -> None:
        """What a worker has to say of a step."""
        self.num_dropped_frames += is_lost
        for drafts in self.last_drafts.values():
            drafts.is_lost |= is_lost
        for i, req_id in enumerate(frame.req_ids):
            begin, end = frame.row_starts[i : i + 2]
            if drafts := self.last_drafts.pop(req_id, None):
                rejected = drafts.num_rejected(positions[begin])
                self.num_rejected[req_id] += 0 if drafts.is_lost else rejected
                self.num_dropped[req_id] += drafts.count if drafts.is_lost else 0
            num_drafts = frame.num_drafts[i] if frame.num_drafts else 0
            self.num_drafts += num_drafts
            if is_lost:
                self.num_dropped[req_id] += end - begin
                self.has_lost_rows.add(req_id)
            elif num_drafts:
                self.last_drafts[req_id] = Drafts(positions[end - 1] + 1, num_drafts)

    def settle(self, records: Iterable[RequestRecord]) -> None:
        """Enter the drafts of each request's last step. They are lost where rows never came: those
        might have told more of them.
        """
        for record in records:
            drafts = self.last_drafts.pop(record.req_id, Drafts(0, 0))
            if record.req_id in self.has_lost_rows:
                self.num_dropped[record.req_id] += drafts.count
            else:
                self.num_rejected[record.req_id] += drafts.num_rejected(record.num_tokens - 1)


class LossyOutbox:
    """Loses frames at random, and counts them as a full queue does."""

    def __init__(self, outbox: Any, share: float, truth: Truth) -> None:
        self._outbox, self._share, self._truth = outbox, share, truth
        self._rng = np.random.default_rng(1)

    @property
    def num_dropped(self) -> int:
        return int(self._outbox.num_dropped)

    def post(self, build: Any) -> None:
        message, arrays = build()
        is_lost = arrays is not None and self._rng.random() < self._share
        if arrays is not None:
            self._truth.note_frame(message, arrays.positions.tolist(), is_lost)
        if is_lost:
            self._outbox.num_dropped += 1
        else:
            self._outbox.post(lambda: (message, arrays))


def serve_chaos(llm: Any, asks: list[Ask], drop_share: float) -> Truth:
    """Runs in the engine's process. Some chats go on with the answers that they got.

    Args:
        drop_share: how many of the frames are lost.
    """
    truth = Truth()
    scheduler = scheduler_of(llm)
    worker = llm.llm_engine.engine_core.engine_core.model_executor.driver_worker.worker
    schedule, outbox = scheduler.schedule, worker.saeguard._outbox

    def look(*args: Any, **kwargs: Any) -> Any:
        output = schedule(*args, **kwargs)
        truth.note_step(output)
        return output

    def go_on(step: int, answers: dict[str, Answer]) -> None:
        for ask in waiting.copy():
            answer = answers.get(ask.id)
            if answer and answer.finish_reasons and None not in answer.finish_reasons:
                waiting.remove(ask)
                asks.append(next_turn(ask, answer, step + 1))

    waiting = [ask for ask in asks[::7] if ask.params.get("n", 1) == 1 and not ask.abort_at_step]
    scheduler.schedule, worker.saeguard._outbox = look, LossyOutbox(outbox, drop_share, truth)
    try:
        truth.answers = drive(llm, asks, go_on)
    finally:
        scheduler.schedule, worker.saeguard._outbox = schedule, outbox
    truth.prompts = {ask.id: list(ask.prompt) for ask in asks}
    truth.num_requests = sum(ask.params.get("n", 1) for ask in asks)
    return truth
