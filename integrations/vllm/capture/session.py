"""Runs requests through a watched engine, batch by batch, and keeps what the monitor recorded."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from saeguard.integrations.vllm.capture.bounds import Bounds, Disk, DiskFullError
from saeguard.integrations.vllm.capture.data import Item, token_ids
from saeguard.integrations.vllm.capture.shards import Answer, Shards
from saeguard.integrations.vllm.capture.watched import Watched
from saeguard.integrations.vllm.engine import tokenizer_file_of
from saeguard.monitor.alerts import RequestRecord
from saeguard.monitor.errors import ConfigError, SaeguardError
from saeguard.monitor.live_heads import with_scores
from saeguard.monitor.phases import PhaseMatcher, PhaseTracker
from saeguard.monitor.recordings import num_evaluated, num_recorded, recorded_request
from saeguard.monitor.store import get_request
from saeguard.monitor.tokens import TokenTexts
from saeguard.rules import RequestContext
from saeguard.rules.recordings.offline import RecordedRequest

_PATIENCE_S = 120.0
"""For the next record of a batch."""
_POLL_S = 0.05
_FAILURES = ("error", "abort")
"""Reasons to end that say nothing of the model."""
_MAX_TRIES = 3
"""Of a request that ends so: on a busy machine the monitor may be missed for a moment."""


class CaptureError(SaeguardError):
    """The monitor did not record what was run."""


@dataclass(frozen=True, slots=True)
class Captured:
    """How it went."""

    num_requests: int
    partly: tuple[str, ...]
    """Ids of the requests of which not every token has its scores."""
    failed: tuple[str, ...] = ()
    """Ids of those that vLLM ended with an error, as it does while nothing is watched: they are not
    recorded."""
    refusal: DiskFullError | None = None
    """Why the others were not run."""


@dataclass(frozen=True, slots=True)
class _Running:
    """A request of a batch."""

    item: Item
    prompt: Sequence[int]
    max_tokens: int

    @property
    def num_tokens(self) -> int:
        """At most."""
        return len(self.prompt) + self.max_tokens


class Session:
    """One engine, and the store of the monitor that watches it."""

    def __init__(
        self,
        engine: Any,
        store: Path,
        shards: Shards,
        disk: Disk,
        watch: Watched,
        max_tokens: int,
    ) -> None:
        """
        Args:
            engine: a `vllm.v1.engine.llm_engine.LLMEngine`.
            disk: where the shards are.
            watch: what the engine is configured with.
            max_tokens: of an answer, where the request says nothing else.
        """
        self._engine = engine
        self._store = store
        self._shards = shards
        self._disk = disk
        self._columns = watch.columns
        self._watchlist = watch.digest
        self._heads = watch.heads
        self._bounds = Bounds(len(watch.columns))
        self._max_tokens = max_tokens
        self._tokenizer = engine.get_tokenizer()
        file = tokenizer_file_of(engine.vllm_config.model_config)
        shards.keep_tokenizer(file)
        self._phases = TokenTexts(file, captured=False).phases
        self._count = 0

    def run(self, items: Sequence[Item], progress: Callable[[int], None]) -> Captured:
        """Run them all, or as many as the disk has room for.

        Raises:
            ConfigError: a request cannot be run, or the directory not be written.
            CaptureError: the monitor recorded nothing of a request.
        """
        captured, waiting = Captured(0, ()), items
        for _ in range(_MAX_TRIES):
            tried = self._run_once(waiting, progress)
            num_done = captured.num_requests + tried.num_requests
            captured = replace(tried, num_requests=num_done, partly=captured.partly + tried.partly)
            if not tried.failed or tried.refusal is not None:
                break
            waiting = [item for item in items if item.id in tried.failed]
        return captured

    def _run_once(self, items: Sequence[Item], progress: Callable[[int], None]) -> Captured:
        partly: list[str] = []
        failed: list[str] = []
        num_done = 0
        for batch in self._batches(items):
            num_bytes = sum(self._bounds.num_bytes(running.num_tokens) for running in batch)
            try:
                self._disk.check(self._shards.num_bytes, num_bytes)
            except DiskFullError as error:
                return Captured(num_done, tuple(partly), tuple(failed), error)
            of_batch = self._run_batch({self._name(): running for running in batch})
            partly += of_batch.partly
            failed += of_batch.failed
            num_done += of_batch.num_requests
            progress(of_batch.num_requests)
        return Captured(num_done, tuple(partly), tuple(failed))

    def _batches(self, items: Sequence[Item]) -> Iterator[list[_Running]]:
        batch: list[_Running] = []
        num_bytes = 0
        for item in items:
            running = _Running(item, token_ids(item, self._tokenizer), self._num_to_generate(item))
            more = self._bounds.num_bytes(running.num_tokens)
            if batch and not self._bounds.has_room(len(batch) + 1, num_bytes + more):
                yield batch
                batch, num_bytes = [], 0
            batch.append(running)
            num_bytes += more
        if batch:
            yield batch

    def _num_to_generate(self, item: Item) -> int:
        return 1 if item.response is not None else item.max_tokens or self._max_tokens

    def _run_batch(self, batch: dict[str, _Running]) -> Captured:
        internal = {}
        for name, running in batch.items():
            prompt = {"prompt_token_ids": running.prompt}
            try:
                internal[name] = self._engine.add_request(name, prompt, _sampling(running))
            except ValueError as error:  # longer than the model takes, say
                raise ConfigError(f"request {running.item.id!r}: {error}") from error
        outputs = {}
        while self._engine.has_unfinished_requests():
            for output in self._engine.step():
                if output.finished:
                    outputs[output.request_id] = output.outputs[0]
        requests, answers, partly, failed = [], [], [], []
        for name, running in batch.items():
            if outputs[name].finish_reason in _FAILURES:
                failed.append(running.item.id)
                continue
            record, output = self._await_record(internal[name]), outputs[name]
            answers.append(_answer(running.item, running.prompt, output, self._tokenizer))
            requests.append(self._recorded(record, running, output, answers[-1]))
            if num_recorded(record) < num_evaluated(record):
                partly.append(running.item.id)
        if requests:
            self._shards.add(requests, answers)
        return Captured(len(requests), tuple(partly), tuple(failed))

    def _recorded(
        self, record: RequestRecord, running: _Running, output: Any, answer: Answer
    ) -> RecordedRequest:
        """What the monitor has stored, with what only we know."""
        request, item = recorded_request(record), running.item
        tokens = np.array([*running.prompt, *output.token_ids], np.int32)
        request = replace(
            request,
            context=RequestContext(model=record.model, id=item.id),
            token_ids=tokens[request.positions],
            watchlist=self._watchlist,
        )
        if item.response is not None:
            request = _as_answered(request, running.prompt, answer, self._phases)
        request = with_scores(request, self._heads)  # which may go by the phases
        wanted = [request.columns.index(name) for name in self._columns]
        return replace(request, columns=self._columns, scores=request.scores[:, wanted])

    def _name(self) -> str:
        """Ours, since vLLM puts characters of its own after a dash."""
        self._count += 1
        return f"capture.{self._count}"

    def _await_record(self, req_id: str) -> RequestRecord:
        """Of a request that has ended, by vLLM's id."""
        deadline_s = time.monotonic() + _PATIENCE_S
        while (record := get_request(self._store, req_id)) is None:
            if time.monotonic() > deadline_s:
                raise CaptureError(
                    f"the monitor has not recorded {req_id} within {_PATIENCE_S:.0f} s",
                    "its log is in the work directory",
                )
            time.sleep(_POLL_S)
        return record


def _sampling(running: _Running) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        temperature=0.0,  # a second run says the same
        max_tokens=running.max_tokens,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def _as_answered(
    request: RecordedRequest, prompt: Sequence[int], answer: Answer, matcher: PhaseMatcher
) -> RecordedRequest:
    """With the phases that the rows would have had, had the model generated the response: vLLM was
    given it as a part of the prompt.
    """
    tracker = PhaseTracker(prompt[: answer.num_prompt_tokens], matcher)
    phases = tracker.phases(0, np.array(prompt, np.int32))
    return replace(request, phases=phases[request.positions])


def _answer(item: Item, prompt: Sequence[int], output: Any, tokenizer: Any) -> Answer:
    if item.response is not None:
        first = _first_of_response(item, prompt, tokenizer)
        span = _span(item.span_text, prompt[first:], first, tokenizer)
        return Answer(item.id, item.response, None, first, len(prompt) - first, span)
    token_ids = list(output.token_ids)
    return Answer(
        id=item.id,
        response=output.text,
        finish_reason=output.finish_reason,
        num_prompt_tokens=len(prompt),
        num_tokens=len(token_ids),
        span=_span(item.span_text, token_ids, len(prompt), tokenizer),
    )


def _first_of_response(item: Item, prompt: Sequence[int], tokenizer: Any) -> int:
    """How many tokens come before the response that was given."""
    before = token_ids(msgspec.structs.replace(item, response=None), tokenizer)
    common = 0
    while common < min(len(before), len(prompt)) and before[common] == prompt[common]:
        common += 1
    return common


def _span(
    text: str | None, tokens: Sequence[int], first: int, tokenizer: Any
) -> tuple[int, int] | None:
    """Positions of the tokens in which the text stands for the first time."""
    if not text:
        return None
    ends = [len(tokenizer.decode(tokens[: i + 1])) for i in range(len(tokens))]
    start = tokenizer.decode(tokens).find(text)
    if start < 0:
        return None
    inside = [i for i, end in enumerate(ends) if end > start]
    last = next(i for i, end in enumerate(ends) if end >= start + len(text))
    return first + inside[0], first + last + 1
