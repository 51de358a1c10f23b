"""Five hundred requests of every kind in a random mix, with frames lost on their way: each row is
put down to its own request and position, and each token is accounted for.

In these models one dimension of the residual stream is the number of the token that was read: no
layer writes to it. A probe reads it, so that a row's score says which token it is of. Each request
has tokens of its own, in its prompt and in its answer, besides what it shares with others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from live_engine import V1_ASYNC, Answer, Ask, drive, scheduler_of
from running_monitor import wait_for
from safetensors.numpy import load_file, save_file
from tiny_models import D_MODEL, Models, make_adapter, make_model
from watched_engine import WatchedEngine, relative_error, watched_engine

from saeguard.monitor.alerts import Coverage, RequestRecord
from saeguard.monitor.store import list_requests, totals

pytestmark = pytest.mark.server

NUM_OWN = 4
"""Tokens that only one request has."""
MAX_REQUESTS = 450
FIRST_OWN = 512
"""Those below are shared."""
VOCAB = FIRST_OWN + NUM_OWN * MAX_REQUESTS
NUMBER = 0
"""The dimension of the residual stream in which a token's number is written."""
BLOCK_SIZE = 32


@dataclass(frozen=True)
class Setup:
    """An engine, and how many requests it gets."""

    num_requests: int
    engine: dict[str, Any]
    env: dict[str, str] = field(default_factory=dict)
    is_async: bool = False
    loras: bool = True
    drop_share: float = 0.05
    """Of frames."""


ENGINE = {
    "max_num_batched_tokens": 64, "max_num_seqs": 8, "block_size": BLOCK_SIZE,
    "num_gpu_blocks_override": 24, "enable_prefix_caching": True,
}  # fmt: skip
LORAS = {"enable_lora": True, "max_loras": 3, "max_lora_rank": 8}
DRAFTS = {"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_max": 3}
SETUPS = {
    "v1_async": Setup(350, {**ENGINE, **LORAS}, V1_ASYNC, is_async=True),
    "v1_drafts": Setup(
        80, {**ENGINE, "num_gpu_blocks_override": 14, "speculative_config": DRAFTS}, loras=False
    ),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    work = tmp_path_factory.mktemp("numbered")
    base = make_model(work / "base", vocab_size=VOCAB)
    write_numbers(base)
    adapters, merged = {}, {}
    for seed, name in enumerate(("red", "blue")):
        adapters[name], merged[name] = make_adapter(work / name, base, seed)
        keep_numbers(adapters[name] / "adapter_model.safetensors")
        keep_numbers(merged[name] / "model.safetensors")
    return Models(base, adapters, merged)


def write_numbers(model: Path) -> None:
    """Into the embedding of every token its number, from 0 to 1."""
    path = model / "model.safetensors"
    tensors = load_file(path)
    tensors["model.embed_tokens.weight"][:, NUMBER] = np.arange(VOCAB) / VOCAB
    save_file(tensors, path, metadata={"format": "pt"})
    keep_numbers(path)


def keep_numbers(path: Path) -> None:
    """Let nothing that a layer adds to the residual stream change it."""
    tensors = load_file(path)
    for name, tensor in tensors.items():
        if ("o_proj" in name or "down_proj" in name) and "lora_A" not in name:
            tensor[NUMBER] = 0.0
    save_file(tensors, path, metadata={"format": "pt"})


def make_asks(setup: Setup, models: Models, seed: int) -> list[Ask]:
    """Requests of all kinds; the number of each is in its id."""
    rng = np.random.default_rng(seed)
    shared = [rng.integers(4, FIRST_OWN, rng.integers(20, 100)).tolist() for _ in range(5)]
    asks, step = [], 0
    for number in range(setup.num_requests):
        step += int(rng.choice([0, 0, 1, 4, 9]))
        prompt = own_tokens(rng, number, int(rng.integers(1, 60)))
        if rng.random() < 0.5:
            prompt = [*shared[rng.integers(5)], *prompt]
        params = random_params(rng, number, is_greedy=not setup.loras)
        lora = str(rng.choice(["", "", "red", "blue"])) if setup.loras else ""
        asks.append(
            Ask(
                f"r{number}",
                prompt,
                max_tokens=90 if "extra_args" in params else int(rng.integers(1, 40)),
                params=params,
                lora=(lora, list(models.adapters).index(lora) + 1, str(models.adapters[lora]))
                if lora
                else None,
                salt=rng.choice([None, None, "salt"]),
                at_step=step,
                abort_at_step=step + int(rng.integers(1, 30)) if rng.random() < 0.1 else None,
            )
        )
    return asks


def own_tokens(rng: np.random.Generator, number: int, count: int) -> list[int]:
    return (FIRST_OWN + NUM_OWN * number + rng.integers(0, NUM_OWN, count)).tolist()


def random_params(rng: np.random.Generator, number: int, is_greedy: bool) -> dict[str, Any]:
    first = FIRST_OWN + NUM_OWN * number
    params: dict[str, Any] = {
        "temperature": 0.0 if is_greedy else 1.0,
        "allowed_token_ids": list(range(first, first + NUM_OWN)),
        "detokenize": False,
    }
    kind = rng.choice(["plain", "several", "stopped", "stop token", "logprobs"], p=SHARES)
    if kind == "several":
        params |= {"n": int(rng.integers(2, 4)), "temperature": 1.0}
    elif kind == "stopped":  # by a rule
        params["extra_args"] = {"tenant": "stop me"}
    elif kind == "stop token":
        params["stop_token_ids"] = [first]
    elif kind == "logprobs":  # of prompts vLLM's CPU build cannot tell them with LoRAs
        params |= {"prompt_logprobs" if is_greedy else "logprobs": 1}
    return params


SHARES = [0.72, 0.08, 0.06, 0.08, 0.06]


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
    num_drafts: int = 0
    num_dropped_frames: int = 0
    num_preempted: int = 0
    num_mixed: int = 0
    """Steps with prompts and answers in them."""

    def settle(self, records: Iterable[RequestRecord]) -> None:
        """Enter the drafts of each request's last step. They are lost where other rows are: what
        was missing might have told more of them.
        """
        for record in records:
            drafts = self.last_drafts.pop(record.req_id, Drafts(0, 0))
            if self.num_dropped[record.req_id]:
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
        return self._outbox.num_dropped

    def post(self, build: Any) -> None:
        message, arrays = build()
        is_lost = arrays is not None and self._rng.random() < self._share
        if arrays is not None:
            self._note(message, arrays.positions.tolist(), is_lost)
        if is_lost:
            self._outbox.num_dropped += 1
        else:
            self._outbox.post(lambda: (message, arrays))

    def _note(self, frame: Any, positions: list[int], is_lost: bool) -> None:
        truth, last = self._truth, self._truth.last_drafts
        truth.num_dropped_frames += is_lost
        for drafts in last.values():
            drafts.is_lost |= is_lost
        for i, req_id in enumerate(frame.req_ids):
            begin, end = frame.row_starts[i : i + 2]
            if drafts := last.pop(req_id, None):
                rejected = drafts.num_rejected(positions[begin])
                truth.num_rejected[req_id] += 0 if drafts.is_lost else rejected
                truth.num_dropped[req_id] += drafts.count if drafts.is_lost else 0
            num_drafts = frame.num_drafts[i] if frame.num_drafts else 0
            truth.num_drafts += num_drafts
            if is_lost:
                truth.num_dropped[req_id] += end - begin
            elif num_drafts:
                last[req_id] = Drafts(positions[end - 1] + 1, num_drafts)


def serve_chaos(llm: Any, asks: list[Ask], drop_share: float) -> Truth:
    """Runs in the engine's process. Chats go on with the answers that they got."""
    truth = Truth()
    scheduler = scheduler_of(llm)
    worker = llm.llm_engine.engine_core.engine_core.model_executor.driver_worker.worker
    schedule, outbox = scheduler.schedule, worker.saeguard._outbox

    def look(*args: Any, **kwargs: Any) -> Any:
        output = schedule(*args, **kwargs)
        note_step(truth, output)
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


def next_turn(ask: Ask, answer: Answer, step: int) -> Ask:
    history = [*ask.prompt, *answer.token_ids[0]]
    more = ask.params["allowed_token_ids"]
    return Ask(
        f"{ask.id}-again", [*history, *more], 10, ask.params, ask.lora, ask.salt, at_step=step
    )


def note_step(truth: Truth, output: Any) -> None:
    begins = {new.req_id: new.num_computed_tokens for new in output.scheduled_new_reqs}
    cached = output.scheduled_cached_reqs
    begins |= zip(cached.req_ids, cached.num_computed_tokens, strict=True)
    counts = output.num_scheduled_tokens
    for req_id, count in counts.items():
        begin, frontier = begins[req_id], truth.frontier[req_id]
        truth.num_scheduled[req_id] += count
        truth.num_cached[req_id] += max(0, begin - frontier)
        truth.frontier[req_id] = max(frontier, begin + count)
    truth.num_preempted += len(output.preempted_req_ids or ())
    truth.num_mixed += any(n > 1 for n in counts.values()) and any(n == 1 for n in counts.values())


@dataclass(frozen=True)
class Chaos:
    """What was done, and what the monitor made of it."""

    setup: Setup
    watched: WatchedEngine
    truth: Truth
    records: dict[str, RequestRecord]
    """By vLLM's ids."""
    totals: dict[str, int]

    def sequences(self) -> Iterator[tuple[RequestRecord, list[int]]]:
        """Each record, with the tokens that its client sent and got."""
        for name, answer in self.truth.answers.items():
            several = len(answer.token_ids) > 1
            for index, token_ids in enumerate(answer.token_ids or [[]]):
                req_id = f"{index}_{answer.req_id}" if several else answer.req_id
                if req_id in self.records:
                    yield self.records[req_id], [*self.truth.prompts[name], *(token_ids or [])]


@pytest.fixture(scope="module", params=SETUPS)
def chaos(
    request: pytest.FixtureRequest, models: Models, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Chaos]:
    setup = SETUPS[request.param]
    number = np.eye(1, D_MODEL, NUMBER)[0]
    with watched_engine(
        tmp_path_factory.mktemp("chaos"), models.base, setup.env, is_async=setup.is_async,
        directions={"east_0": number}, **setup.engine,
    ) as watched:  # fmt: skip
        asks = make_asks(setup, models, seed=11)
        truth = watched.engine.call(serve_chaos, asks, setup.drop_share)
        wait_for(lambda: totals(watched.store)["requests/finished"] >= truth.num_requests, 30)
        records = {record.req_id: record for record in list_requests(watched.store, limit=10_000)}
        truth.settle(records.values())
        yield Chaos(setup, watched, truth, records, totals(watched.store))


def misattributed(scores: np.ndarray, features: Sequence[str], token_ids: list[int]) -> list[int]:
    """Positions whose row says that another token was read there; a lost row says nothing."""
    read = np.round(scores[:, features.index("east_0")] * VOCAB)
    expected = np.array(token_ids[: len(read)])
    read = read[: len(expected)]
    return np.flatnonzero(~np.isnan(read) & (read != expected)).tolist()


def test_all_kinds_of_trouble_were_there(chaos: Chaos, request: pytest.FixtureRequest):
    truth = chaos.truth
    has_drafts = request.node.callspec.params["chaos"] == "v1_drafts"
    assert has_drafts == (0 < truth.num_rejected.total() < truth.num_drafts)
    assert truth.num_preempted > 0
    assert truth.num_mixed > 0
    assert truth.num_dropped_frames > 0
    coverages = [record.coverage for record in chaos.records.values()]
    assert sum(coverage.cached for coverage in coverages) > 0
    reasons = {record.reason.partition(":")[0] for record in chaos.records.values()}
    assert reasons >= {"stopped", "aborted", "length_capped"}
    assert "saeguard" in reasons or has_drafts  # with drafts few requests are to be stopped


def account(truth: Truth, req_id: str) -> dict[str, int]:
    """What the request's record ought to say."""
    num_scheduled = truth.num_scheduled[req_id] - truth.num_rejected[req_id]
    num_cached, num_dropped = truth.num_cached[req_id], truth.num_dropped[req_id]
    return {
        "scheduled": num_scheduled + num_cached,
        "observed": num_scheduled - num_dropped,
        "cached or evicted": num_cached,
        "dropped": num_dropped,
    }


def accounted(coverage: Coverage) -> dict[str, int]:
    assert set(coverage.unseen) <= {"dropped_frame", "evicted"}
    return {
        "scheduled": coverage.scheduled,
        "observed": coverage.observed,
        "cached or evicted": coverage.cached + coverage.unseen.get("evicted", 0),
        "dropped": coverage.unseen.get("dropped_frame", 0),
    }


def test_each_token_of_each_request_is_accounted_for(chaos: Chaos):
    """A request in which no rule matched and nothing was lost has no record."""
    truth = chaos.truth
    without = set(truth.num_scheduled) - set(chaos.records)
    assert not any(truth.num_dropped[req_id] for req_id in without)
    assert len(without) < 0.1 * len(truth.num_scheduled)
    for req_id, record in chaos.records.items():
        assert accounted(record.coverage) == account(truth, req_id), req_id


def test_totals_are_exact(chaos: Chaos):
    truth, totals = chaos.truth, chaos.totals
    num_scheduled = truth.num_scheduled.total() - truth.num_rejected.total()
    num_dropped = truth.num_dropped.total()
    num_cached = truth.num_cached.total()
    assert totals["requests/finished"] == truth.num_requests > chaos.setup.num_requests
    assert totals["tokens/scheduled"] == num_scheduled + num_cached
    assert totals["tokens/observed"] == num_scheduled - num_dropped
    assert totals["tokens/unseen/dropped_frame"] == num_dropped
    assert totals["tokens/cached"] + totals.get("tokens/unseen/evicted", 0) == num_cached


def test_every_row_is_its_own_request_s_at_its_own_position(chaos: Chaos):
    num_rows = 0
    for record, token_ids in chaos.sequences():
        scores = record.score_array()
        assert record.first_recorded == 0 or record.coverage.unseen
        wrong = misattributed(scores, record.features, token_ids[record.first_recorded :])
        assert not wrong, (record.req_id, wrong)
        num_rows += int((~np.isnan(scores[:, 0])).sum())
    assert num_rows > 0.7 * chaos.truth.frontier.total()


def test_rows_of_another_request_or_position_would_be_seen(chaos: Chaos):
    """By their tokens, where they are not all the same."""
    full = [
        (record.score_array(), record.features, token_ids)
        for record, token_ids in chaos.sequences()
        if not record.coverage.unseen and record.coverage.observed > 20
    ]
    assert len(full) > 0.2 * len(chaos.records)
    num_shifted = 0
    for (scores, features, token_ids), (_, _, others) in pairwise(full):
        assert token_ids[:12] == others[:12] or misattributed(scores[:12], features, others)
        if len(set(token_ids[1 : len(scores)])) > 1:
            assert misattributed(np.roll(scores, 1, axis=0), features, token_ids)
            assert misattributed(np.roll(scores, -1, axis=0), features, token_ids)
            num_shifted += 1
    assert num_shifted > 0.8 * len(full)


def test_scores_are_hugging_face_s(chaos: Chaos, models: Models):
    """Where tokens alone could not tell two rows apart: the other layer depends on all before."""
    for record, token_ids in chaos.sequences():
        scores = record.score_array()
        token_ids = token_ids[: record.first_recorded + len(scores)]
        model = models.merged[record.lora] if record.lora else models.base
        if not token_ids:
            continue
        expected = chaos.watched.expected(model, token_ids)[record.first_recorded :]
        is_known = ~np.isnan(scores[: len(expected), 0])
        got = scores[: len(expected)][is_known]
        if len(got):
            assert relative_error(got, expected[is_known]) <= 1e-4, record.req_id
