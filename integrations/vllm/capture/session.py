"""Runs requests through a watched engine, batch by batch, and keeps what the monitor recorded."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from saeguard.integrations.vllm.capture.bounds import Bounds
from saeguard.integrations.vllm.capture.data import Item, token_ids
from saeguard.integrations.vllm.capture.parts import Part
from saeguard.integrations.vllm.capture.shards import Answer
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
    """What came of some requests."""

    requests: list[RecordedRequest] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    """Of the same requests."""
    partly: list[str] = field(default_factory=list)
    """Ids of those of which not every token has its scores."""
    failed: list[str] = field(default_factory=list)
    """Ids of others, which vLLM ended with an error, as it does while nothing is watched."""
    files: dict[str, bytes] = field(default_factory=dict)
    """To be kept beside the recordings by these names: the model's tokenizer.json, which a session
    gives once, and the engine's log, where requests have failed."""

    @property
    def num_bytes(self) -> int:
        """Of the scores."""
        return sum(request.scores.nbytes for request in self.requests)


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

    def __init__(self, engine: Any, store: Path, watch: Watched, max_tokens: int) -> None:
        """
        Args:
            engine: a `vllm.v1.engine.llm_engine.LLMEngine`.
            watch: what the engine is configured with.
            max_tokens: of an answer, where the request says nothing else.
        """
        self._engine = engine
        self._store = store
        self._columns = watch.columns
        self._watchlist = watch.of_rules.digest
        self._heads = watch.of_rules.heads
        self._bounds = Bounds(len(watch.columns))
        self._max_tokens = max_tokens
        self._tokenizer = engine.get_tokenizer()
        file = tokenizer_file_of(engine.vllm_config.model_config)
        self._files = {"tokenizer.json": Path(file).read_bytes()} if file else {}
        self._phases = TokenTexts(file, captured=False).phases
        self._count = 0

    def run(self, part: Part) -> Captured:
        """Run them all. What comes of them does not depend on what was run before.

        Raises:
            ConfigError: a request cannot be run.
            CaptureError: the monitor recorded nothing of a request.
        """
        captured = Captured(files=self._files)
        self._files = {}
        waiting = [self._running(item) for item in part.items]
        for _ in range(_MAX_TRIES):
            batches = list(self._batches(waiting))
            waiting = [failed for batch in batches for failed in self._run_batch(batch, captured)]
        captured.failed.extend(running.item.id for running in waiting)
        return captured

    def _batches(self, requests: Sequence[_Running]) -> Iterator[list[_Running]]:
        return self._bounds.batches((each, each.num_tokens) for each in requests)

    def _running(self, item: Item) -> _Running:
        prompt = token_ids(item, self._tokenizer)
        return _Running(item, prompt, item.num_to_generate(self._max_tokens))

    def _run_batch(self, batch: Sequence[_Running], captured: Captured) -> list[_Running]:
        """Run them together, and add what comes of them.

        Returns:
            Those that vLLM ended with an error.
        """
        self._engine.reset_prefix_cache()
        running = {self._name(): each for each in batch}
        internal = {name: self._add(name, each) for name, each in running.items()}
        outputs = {}
        while self._engine.has_unfinished_requests():
            for output in self._engine.step():
                if output.finished:
                    outputs[output.request_id] = output.outputs[0]
        failed = []
        for name, each in running.items():
            output = outputs[name]
            if output.finish_reason in _FAILURES:
                failed.append(each)
                continue
            record = self._await_record(internal[name])
            answer = _answer(each.item, each.prompt, output, self._tokenizer)
            captured.answers.append(answer)
            captured.requests.append(self._recorded(record, each, output, answer))
            if num_recorded(record) < num_evaluated(record):
                captured.partly.append(each.item.id)
        return failed

    def _add(self, name: str, running: _Running) -> str:
        """To what the engine is to run; by vLLM's id."""
        prompt = {"prompt_token_ids": running.prompt}
        try:
            req_id: str = self._engine.add_request(name, prompt, _sampling(running))
        except ValueError as error:  # longer than the model takes, say
            raise ConfigError(f"request {running.item.id!r}: {error}") from error
        return req_id

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
