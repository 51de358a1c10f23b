"""Runs requests through a watched engine, batch by batch, and keeps what the monitor recorded."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from saeguard.integrations.vllm.capture.data import Item, token_ids
from saeguard.integrations.vllm.capture.shards import Answer, Shards
from saeguard.integrations.vllm.engine import tokenizer_file_of
from saeguard.monitor.alerts import RequestRecord
from saeguard.monitor.errors import ConfigError, SaeguardError
from saeguard.monitor.phases import PhaseMatcher, PhaseTracker
from saeguard.monitor.recordings import num_evaluated, num_recorded, recorded_request
from saeguard.monitor.store import list_requests
from saeguard.monitor.tokens import TokenTexts
from saeguard.rules import RequestContext
from saeguard.rules.recordings.offline import RecordedRequest

BATCH = 256
"""Requests of one shard: as much is lost when a capture is ended before its time."""
_PATIENCE_S = 60.0
_POLL_S = 0.1


class CaptureError(SaeguardError):
    """The monitor did not record what was run."""


@dataclass(frozen=True, slots=True)
class Captured:
    """How it went."""

    num_requests: int
    partly: tuple[str, ...]
    """Ids of the requests of which not every token has its scores."""


class Session:
    """One engine, and the store of the monitor that watches it."""

    def __init__(self, engine: Any, store: Path, shards: Shards, max_tokens: int) -> None:
        """
        Args:
            engine: a `vllm.v1.engine.llm_engine.LLMEngine`.
            max_tokens: of an answer, where the request says nothing else.
        """
        self._engine = engine
        self._store = store
        self._shards = shards
        self._max_tokens = max_tokens
        self._tokenizer = engine.get_tokenizer()
        file = tokenizer_file_of(engine.vllm_config.model_config)
        self._phases = TokenTexts(file, captured=False).phases
        self._count = 0

    def run(self, items: Sequence[Item], progress: Callable[[int], None]) -> Captured:
        """Run them all.

        Raises:
            ConfigError: a request cannot be run, or the directory not be written.
            CaptureError: the monitor recorded nothing of a request.
        """
        partly: list[str] = []
        for start in range(0, len(items), BATCH):
            batch = items[start : start + BATCH]
            partly += self._run_batch(batch)
            progress(len(batch))
        return Captured(len(items), tuple(partly))

    def _run_batch(self, items: Sequence[Item]) -> list[str]:
        prompts = {self._name(): (item, token_ids(item, self._tokenizer)) for item in items}
        for name, (item, prompt) in prompts.items():
            try:
                self._engine.add_request(name, {"prompt_token_ids": prompt}, self._sampling(item))
            except ValueError as error:  # longer than the model takes, say
                raise ConfigError(f"request {item.id!r}: {error}") from error
        outputs = {}
        while self._engine.has_unfinished_requests():
            for output in self._engine.step():
                if output.finished:
                    outputs[output.request_id] = output
        answers = [
            _answer(item, prompt, outputs[name].outputs[0], self._tokenizer)
            for name, (item, prompt) in prompts.items()
        ]
        records = self._await_records(set(prompts))
        requests = []
        for (name, (item, prompt)), answer in zip(prompts.items(), answers, strict=True):
            context = RequestContext(model=records[name].model, id=item.id)
            request = replace(recorded_request(records[name]), context=context)
            if item.response is not None:
                request = _as_answered(request, prompt, answer, self._phases)
            requests.append(request)
        self._shards.add(requests, answers)
        return [
            item.id
            for name, (item, _) in prompts.items()
            if num_recorded(records[name]) < num_evaluated(records[name])
        ]

    def _name(self) -> str:
        """Ours, since vLLM puts characters of its own after a dash."""
        self._count += 1
        return f"capture.{self._count}"

    def _sampling(self, item: Item) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(
            temperature=0.0,  # a second run says the same
            max_tokens=1 if item.response is not None else item.max_tokens or self._max_tokens,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def _await_records(self, names: set[str]) -> dict[str, RequestRecord]:
        deadline_s = time.monotonic() + _PATIENCE_S
        while True:
            found = list_requests(self._store, limit=2 * len(names))
            records = {r.request_id: r for r in found if r.request_id in names}
            if len(records) == len(names):
                return records
            if time.monotonic() > deadline_s:
                raise CaptureError(
                    f"the monitor recorded {len(records)} of {len(names)} requests",
                    "its log is in the work directory",
                )
            time.sleep(_POLL_S)


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
