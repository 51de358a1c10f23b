"""Hundreds of requests of every kind in a random mix, with frames lost on their way: each row is
put down to its own request and position, and each token is accounted for.

With SAEGUARD_TEST_CHAOS=500 each engine gets so many.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chaos_requests import make_asks
from chaos_truth import Truth, serve_chaos
from live_engine import V1_ASYNC, V2
from numbered_models import DIRECTION, make_numbered_models, tokens_read
from running_monitor import wait_for
from tiny_models import Models
from watched_engine import WatchedEngine, relative_error, watched_engine

from saeguard.monitor.alerts import Coverage, RequestRecord
from saeguard.monitor.store import list_requests, totals

pytestmark = pytest.mark.server


@dataclass(frozen=True)
class Setup:
    """An engine, and what it gets."""

    num_requests: int
    engine: dict[str, Any]
    env: dict[str, str] = field(default_factory=dict)
    is_async: bool = False
    without: frozenset[str] = frozenset()
    """Kinds of requests that vLLM's CPU build does not serve there."""

    @property
    def loras(self) -> bool:
        return "enable_lora" in self.engine

    @property
    def drafts(self) -> bool:
        return "speculative_config" in self.engine


DROP_SHARE = 0.05
"""Of frames."""
BASE = {
    "max_num_batched_tokens": 64, "max_num_seqs": 8, "block_size": 32,
    "num_gpu_blocks_override": 14, "enable_prefix_caching": True,
}  # fmt: skip
LORAS = {**BASE, "enable_lora": True, "max_loras": 3, "max_lora_rank": 8}
ROOMY = {**LORAS, "num_gpu_blocks_override": 24}
NGRAMS = {"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_max": 3}
DRAFTS = {**BASE, "speculative_config": NGRAMS}
NOT_WITH_LORAS = frozenset({"prompt logprobs"})
SETUPS = {
    "v1_async": Setup(350, ROOMY, V1_ASYNC, is_async=True, without=NOT_WITH_LORAS),
    "v1_drafts": Setup(80, DRAFTS),
    "v2_async": Setup(40, LORAS, V2, is_async=True, without=NOT_WITH_LORAS),
    "v2_drafts": Setup(40, DRAFTS, V2, is_async=True),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return make_numbered_models(tmp_path_factory.mktemp("numbered"))


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


@pytest.fixture(
    scope="module",
    # V2 is slow here: it runs beside another engine, as nothing of it is a matter of time.
    params=[pytest.param(n, marks=[pytest.mark.offline] if "v2" in n else []) for n in SETUPS],
)
def chaos(
    request: pytest.FixtureRequest, models: Models, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Chaos]:
    setup = SETUPS[request.param]
    if request.param == "v2_drafts" and not v2_has_ngrams():
        pytest.skip("Model Runner V2 of this vLLM does not speculate with n-grams")
    num_requests = int(os.environ.get("SAEGUARD_TEST_CHAOS", setup.num_requests))
    with watched_engine(
        tmp_path_factory.mktemp("chaos"), models.base, setup.env, is_async=setup.is_async,
        directions={"east_0": DIRECTION}, **setup.engine,
    ) as watched:  # fmt: skip
        asks = make_asks(num_requests, models, setup.loras, setup.without)
        truth = watched.engine.call(serve_chaos, asks, DROP_SHARE, timeout_s=3600)
        wait_for(lambda: totals(watched.store)["requests/finished"] >= truth.num_requests, 60)
        records = {record.req_id: record for record in list_requests(watched.store, limit=10_000)}
        truth.settle(records.values())
        yield Chaos(setup, watched, truth, records, totals(watched.store))


def v2_has_ngrams() -> bool:
    spec = importlib.util.find_spec("vllm")
    assert spec is not None
    (vllm,) = spec.submodule_search_locations
    return Path(vllm, "v1/worker/gpu/spec_decode/ngram").exists()


def misattributed(scores: np.ndarray, features: Sequence[str], token_ids: list[int]) -> list[int]:
    """Positions whose row says that another token was read there; a lost row says nothing."""
    read = tokens_read(scores[:, features.index("east_0")])
    expected = np.array(token_ids[: len(read)])
    read = read[: len(expected)]
    return np.flatnonzero(~np.isnan(read) & (read != expected)).tolist()


def test_all_kinds_of_trouble_were_there(chaos: Chaos):
    truth, has_drafts = chaos.truth, chaos.setup.drafts
    assert has_drafts == (0 < truth.num_rejected.total() < truth.num_drafts)
    assert truth.preempted
    assert not has_drafts or any(truth.num_rejected[req_id] for req_id in truth.preempted)
    assert truth.num_mixed > 0
    assert truth.num_dropped_frames > 0
    coverages = [record.coverage for record in chaos.records.values()]
    assert sum(coverage.cached for coverage in coverages) > 0
    reasons = {record.reason.partition(":")[0] for record in chaos.records.values()}
    assert reasons >= {"stopped", "aborted", "length_capped", "saeguard"}


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
    assert totals["requests/finished"] == truth.num_requests > len(truth.answers)
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
