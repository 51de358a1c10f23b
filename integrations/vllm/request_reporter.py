"""Tells the monitor what only the scheduler knows: which requests there are, how many rows it asked
for, and what came from the prefix cache.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from saeguard.integrations.vllm.client_words import Said, external_id
from saeguard.integrations.vllm.outbox import Connection, Outbox
from saeguard.integrations.vllm.running_request import RunningRequest
from saeguard.monitor.messages import (
    STOP_REASON,
    MoreInput,
    PrefixUpdate,
    RequestEnd,
    RequestStart,
    Running,
)

_Told = RequestStart | PrefixUpdate | MoreInput | RequestEnd | Running

_MAX_ENDED = 1_000
_KEEP_S = 6.0
"""How long the end of a request is kept after it was told: longer than a monitor waits for its last
rows before it stores it.
"""


@dataclass(slots=True)
class _Ended:
    """What was said of a request that a monitor may have heard and not stored."""

    running: RunningRequest
    end: RequestEnd
    told_s: float


class RequestReporter:
    """Looks at what a scheduler does. A request is announced when it is first scheduled: only then
    it is known what it has from the prefix cache.
    """

    def __init__(
        self,
        requests: Mapping[str, Any],
        model: str,
        tokenizer_file: str | None,
        block_size: int,
        outbox: Outbox,
        connection: Connection,
        prefix: str = "",
        engine: int = 0,
    ) -> None:
        """
        Args:
            requests: the scheduler's, by id.
            block_size: of the blocks that it hashes; 0 if it has no prefix cache.
            connection: of the outbox.
            prefix: what the ids that the monitor hears of begin with.
            engine: data-parallel rank of this one.
        """
        self._engine = engine
        self._prefix = prefix
        self._requests = requests
        self._model = model
        self._tokenizer_file = tokenizer_file
        self._block_size = block_size
        self._outbox = outbox
        self._connection = connection
        self._running: dict[str, RunningRequest] = {}
        self._ended: deque[_Ended] = deque(maxlen=_MAX_ENDED)
        """The oldest first."""
        self._num_dropped_told = 0

    def scheduled(self, output: Any) -> None:
        """After `Scheduler.schedule`, with what it returned."""
        if self._connection.is_new():
            self._tell_again()
        if self._outbox.num_dropped > self._num_dropped_told:
            self.tell_running()
        new, skipped, made = [], {}, {}
        num_scheduled = output.num_scheduled_tokens
        for req_id, num_computed in _begun(output):
            running = self._running.get(req_id)
            if running is None:
                new.append((self._requests[req_id], num_computed))
            else:
                if (more := running.more_input(num_computed)) is not None:
                    self._post(more)
                if (skip := running.resume(num_computed)) is not None:
                    skipped[req_id] = skip
        running_by_id = self._running
        for req_id, num_tokens in num_scheduled.items():
            running = running_by_id.get(req_id)
            if running is None:  # new, or we failed to announce it
                continue
            running.num_scheduled += num_tokens
            # Hashes are known before the block's last row is computed, and before any other
            # request can find the block.
            is_due = running.num_scheduled >= running.next_block_at
            if is_due and (blocks := running.new_blocks()) is not None:
                made[req_id] = blocks
        if made or skipped:
            self._post(PrefixUpdate(made, skipped))
        for request, num_cached in new:
            self._start(request, num_cached, num_scheduled.get(request.request_id, 0))

    def ended(self, request: Any) -> None:
        """Before `Scheduler._free_request`."""
        req_id = request.request_id
        if req_id not in self._running:  # it ended in the queue
            self._start(request, 0, 0)
        running = self._running.pop(req_id)
        if (made := running.new_blocks()) is not None:
            self._post(PrefixUpdate(made={req_id: made}))
        end = RequestEnd(
            req_id=req_id,
            reason=_end_reason(request),
            num_scheduled=running.num_scheduled,
            num_cached=running.num_cached,
            num_output_tokens=request.num_output_tokens,
            time_ns=time.time_ns(),
            num_dropped=self._outbox.num_dropped,
        )
        self._post(end)
        self._keep(_Ended(running, end, time.monotonic()))

    def tell_running(self) -> None:
        """Whatever else this engine has announced is over: an end may have been lost."""
        num_dropped = self._outbox.num_dropped
        self._post(Running(self._engine, list(self._running), num_dropped))
        if self._outbox.num_dropped == num_dropped:
            self._num_dropped_told = num_dropped

    def _keep(self, ended: _Ended) -> None:
        """For a monitor that comes after the one that has heard of it."""
        if self._connection.is_up:
            while self._ended and self._ended[0].told_s < ended.told_s - _KEEP_S:
                self._ended.popleft()
        self._ended.append(ended)

    def _tell_again(self) -> None:
        """A monitor has come back: it knows of what waited for it in the queue, but not of the
        requests that had been announced before.
        """
        for ended in self._ended:
            num_dropped, ended.told_s = self._outbox.num_dropped, time.monotonic()
            self._post(msgspec.structs.replace(ended.end, num_dropped=num_dropped))
            self._announce(ended.running, num_before=ended.running.num_rows, has_ended=True)
        for running in self._running.values():
            self._announce(running, num_before=running.num_rows)

    def _start(self, request: Any, num_cached: int, num_scheduled: int) -> None:
        running = RunningRequest(
            request, self._block_size, num_cached, num_scheduled,
            furthest=num_cached, offset=num_cached, prompt_len=request.num_prompt_tokens,
        )  # fmt: skip
        self._running[request.request_id] = running
        running.new_blocks()
        self._announce(running)

    def _announce(
        self, running: RunningRequest, num_before: int = 0, has_ended: bool = False
    ) -> None:
        request = running.request
        said = Said.by(request)
        hashes = request.block_hashes[: running.num_hashes] if self._block_size else []
        self._post(
            RequestStart(
                req_id=request.request_id,
                external_id=external_id(request.request_id),
                model=self._model,
                tokenizer_file=self._tokenizer_file,
                prompt_token_ids=list(request.prompt_token_ids or ()),
                time_ns=running.time_ns,
                lora=request.lora_request.lora_name if request.lora_request else None,
                trace_headers=dict(request.trace_headers) if request.trace_headers else None,
                tenant=said.tenant,
                client=said.client,
                policy=said.policy,
                opt_out=said.opt_out,
                num_cached=running.num_cached,
                block_size=self._block_size,
                block_hashes=list(hashes),
                num_dropped=self._outbox.num_dropped,
                clock_ns=running.clock_ns,
                num_before=num_before,
                has_ended=has_ended,
                engine=self._engine,
                is_resumable=bool(getattr(request, "resumable", False)),
            )
        )

    def _post(self, message: _Told) -> None:
        if self._prefix:
            message = _prefixed(message, self._prefix)
        self._outbox.post(lambda: (message, None))


def _prefixed(message: _Told, prefix: str) -> _Told:
    if isinstance(message, Running):
        ids = [prefix + req_id for req_id in message.req_ids]
        return msgspec.structs.replace(message, req_ids=ids)
    if isinstance(message, PrefixUpdate):
        made = {prefix + req_id: blocks for req_id, blocks in message.made.items()}
        return PrefixUpdate(made, {prefix + req_id: s for req_id, s in message.skipped.items()})
    return msgspec.structs.replace(message, req_id=prefix + message.req_id)


def _begun(output: Any) -> Iterator[tuple[str, int]]:
    """Requests that begin, or go on after a preemption, and at which position.

    Of those that go on the runners differ in where they are listed.
    """
    for new in output.scheduled_new_reqs:
        yield new.req_id, new.num_computed_tokens
    cached = output.scheduled_cached_reqs
    if cached.resumed_req_ids:
        for req_id, num_computed in zip(cached.req_ids, cached.num_computed_tokens, strict=True):
            if req_id in cached.resumed_req_ids:
                yield req_id, num_computed


def _end_reason(request: Any) -> str:
    reason = request.stop_reason
    if isinstance(reason, str) and reason.startswith(STOP_REASON):
        return reason
    return str(request.status.name.removeprefix("FINISHED_").lower())
