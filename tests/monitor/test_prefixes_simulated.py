"""Under random rules and a simulated scheduler, what the prefix cache held is as if computed."""

from __future__ import annotations

import itertools
import zlib
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from fake_engine import end_message, hashes_of, start_message
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from saeguard.monitor.detector import GRACE_S, Detector
from saeguard.monitor.live_heads import LiveHeads
from saeguard.monitor.messages import Frame, FrameArrays, NewBlocks, PrefixUpdate
from saeguard.monitor.requests import LiveRequest
from saeguard.monitor.tokens import TokenTexts
from saeguard.rules import Engine, RuleSet
from tests.rules import generate
from tests.rules.generate import FEATURES

NO_TEXTS = TokenTexts(None, captured=False)
SIZE = 4
"""Of a block, in tokens."""


@dataclass
class Served:
    """One request as vLLM runs it."""

    name: str
    token_ids: list[int]
    prompt_len: int
    computed: int = 0
    furthest: int = 0
    num_told: int = 0
    num_scheduled: int = 0
    num_cached: int = 0
    is_waiting: bool = True
    is_started: bool = False
    rows_at: list[int] = field(default_factory=list)

    @property
    def num_known(self) -> int:
        """Tokens that there are: the prompt's, and those generated so far."""
        is_in_prompt = self.furthest < self.prompt_len
        return self.prompt_len if is_in_prompt else min(self.furthest + 1, len(self.token_ids))

    @property
    def hashes(self) -> list[bytes]:
        return hashes_of(self.token_ids[: self.num_known], SIZE)

    @property
    def is_done(self) -> bool:
        return self.computed == len(self.token_ids) - 1


class Server:
    """vLLM's scheduler, as far as the prefix cache goes, in front of a detector."""

    def __init__(self, rng: np.random.Generator, detector: Detector, loss: float) -> None:
        self._rng = rng
        self._detector = detector
        self._loss = loss
        self._cache: set[bytes] = set()
        self._step = 0
        self._behind: list[tuple[Frame, FrameArrays]] = []
        """Frames that the monitor has not got to; it reads other messages before them."""
        self.matches: list[tuple[str, str, int]] = []
        self.finished: dict[str, LiveRequest] = {}

    def serve(self, requests: list[Served]) -> None:
        left = list(requests)
        while left:
            members = [r for r in left if self._rng.random() < 0.7]
            self._rng.shuffle(members)
            if members:
                self._run(members)
            for request in [r for r in left if r.is_done]:
                left.remove(request)
                self._tell(request)
                end = end_message(
                    request.name, request.num_scheduled, num_cached=request.num_cached,
                    num_output_tokens=len(request.token_ids) - request.prompt_len,
                )  # fmt: skip
                self._found(self._detector.end(end, 0.0))
        self._catch_up()
        for request in self._detector.finished(GRACE_S + 1):
            self.finished[request.start.req_id] = request
            record = request.record(tuple(FEATURES))
            self.scores = getattr(self, "scores", {}) | {request.start.req_id: record}

    def _run(self, members: list[Served]) -> None:
        starts, skipped, parts = [], {}, []
        told = [r for r in members if r.is_started]
        for request in members:
            if not request.is_waiting and self._rng.random() < 0.1:  # preempted
                request.is_waiting = True
            if request.is_waiting:
                self._resume(request, starts, skipped)
            end = self._end_of_chunk(request)
            parts.append((request, request.computed, end))
            request.computed = end
            request.furthest = max(request.furthest, end)
            request.num_scheduled += end - parts[-1][1]
            self._cache |= set(request.hashes[: end // SIZE])
        for request in told:
            self._tell(request)
        if skipped:
            self._detector.update_prefixes(PrefixUpdate(skipped=skipped))
        for start in starts:
            self._found(self._detector.start(start, NO_TEXTS))
        self._step += 1
        if self._rng.random() >= self._loss:
            self._behind.append(self._frame(parts))
        if self._rng.random() < 0.5:
            self._catch_up()

    def _catch_up(self) -> None:
        for frame, arrays in self._behind:
            self._found(self._detector.observe(frame, arrays, 0.0))
        self._behind.clear()

    def _resume(self, request: Served, starts: list, skipped: dict) -> None:
        request.is_waiting = False
        hashes = request.hashes[: (request.num_known - 1) // SIZE]
        known = list(itertools.takewhile(self._cache.__contains__, hashes))
        request.computed = SIZE * len(known)
        skip = max(0, request.computed - request.furthest)
        request.num_cached += skip
        if not request.is_started:
            request.is_started = True
            request.num_told = len(request.hashes)
            prompt = request.token_ids[: request.prompt_len]
            values = {"num_cached": skip, "block_size": SIZE, "block_hashes": request.hashes}
            starts.append(start_message(request.name, prompt, tenant="a", **values))
        elif skip:
            skipped[request.name] = (request.furthest, request.computed)
        request.furthest = max(request.furthest, request.computed)

    def _end_of_chunk(self, request: Served) -> int:
        size = int(self._rng.integers(1, 11))
        return min(request.computed + size, request.num_known, len(request.token_ids) - 1)

    def _tell(self, request: Served) -> None:
        if new := request.hashes[request.num_told :]:
            made = {request.name: NewBlocks(request.num_told, new)}
            self._detector.update_prefixes(PrefixUpdate(made=made))
            request.num_told += len(new)

    def _frame(self, parts: list[tuple[Served, int, int]]) -> tuple[Frame, FrameArrays]:
        positions = np.concatenate([np.arange(begin, end) for _, begin, end in parts])
        frame = Frame(
            worker=0,
            step=self._step,
            watchlist="w",
            req_ids=[request.name for request, _, _ in parts],
            row_starts=np.cumsum([0, *(end - begin for _, begin, end in parts)]).tolist(),
            tap_calls=[self._step],
            num_features=len(FEATURES),
            time_ns=self._step,
            dropped_frames=0,
        )
        scores = np.concatenate([truth(r.token_ids)[begin:end] for r, begin, end in parts])
        ids = np.concatenate([r.token_ids[begin:end] for r, begin, end in parts])
        return frame, FrameArrays(scores, ids.astype(np.int32), positions.astype(np.int32))

    def _found(self, detections: list) -> None:
        self.matches += [(d.match.key, d.match.rule.name, d.match.position) for d in detections]


def truth(token_ids: list[int]) -> np.ndarray:
    """Scores that depend on all that was read, as those of a model, [tokens, features]."""
    return np.concatenate([_truth(bytes(token_ids[:end])) for end in range(1, len(token_ids) + 1)])


@cache
def _truth(read: bytes) -> np.ndarray:
    rng = np.random.default_rng(zlib.crc32(read))
    return generate.random_scores(rng, 1, share_nonzero=0.5, share_holes=0.0)


def conversations(rng: np.random.Generator) -> list[list[Served]]:
    """Rounds of requests; in each round one of every conversation, with all that was before."""
    system = rng.integers(0, 200, int(rng.integers(0, 14))).tolist()
    histories = [list(system) for _ in range(3)]
    rounds = []
    for number in range(2):
        requests = []
        for i, history in enumerate(histories):
            prompt = [*history, *rng.integers(0, 3 if number else 200, 5).tolist()]
            ids = [*prompt, *rng.integers(0, 200, int(rng.integers(2, 20))).tolist()]
            requests.append(Served(f"r{number}{i}", ids, len(prompt)))
            histories[i] = ids
        requests.append(Served(f"again{number}", list(ids), len(prompt)))
        rounds.append(requests)
    return rounds


def server_after(
    ruleset: RuleSet,
    seed: int,
    loss: float,
    num_bytes: int = 1 << 20,
    heads: LiveHeads | None = None,
):
    """A server that has served some conversations, and their requests."""
    rng = np.random.default_rng(seed)
    engine = Engine(ruleset, FEATURES)
    detector = Detector(
        engine, "w", len(FEATURES), record_tokens=128, prefix_bytes=num_bytes, heads=heads
    )
    server = Server(rng, detector, loss)
    rounds = conversations(rng)
    for requests in rounds:
        server.serve(requests)
    return server, [request for requests in rounds for request in requests]


thorough = settings(
    max_examples=60,
    derandomize=True,
    phases=(Phase.generate,),
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@thorough
@given(ruleset=generate.rule_sets(), seed=st.integers(0, 2**32 - 1))
def test_rules_find_what_they_would_find_without_a_cache(ruleset: RuleSet, seed: int):
    server, requests = server_after(ruleset, seed, loss=0.0)
    num_cached = 0
    for request in requests:
        plain = Detector(Engine(ruleset, FEATURES), "w", len(FEATURES), record_tokens=128)
        prompt = request.token_ids[: request.prompt_len]
        plain.start(start_message(request.name, prompt, tenant="a"), NO_TEXTS)
        alone = Server(np.random.default_rng(0), plain, loss=0.0)
        alone._found(plain.observe(*alone._frame([(request, 0, len(request.token_ids) - 1)]), 0.0))
        mine = [match for match in server.matches if match[0] == request.name]
        assert mine == alone.matches
        coverage = server.finished[request.name].coverage()
        assert coverage.unseen == {}
        assert coverage.cached == request.num_cached
        assert coverage.scheduled == coverage.observed + coverage.cached
        got = server.scores[request.name].score_array()
        np.testing.assert_array_equal(got[1:], truth(request.token_ids)[1:-1])
        num_cached += request.num_cached
    assert num_cached > 0


@thorough
@given(ruleset=generate.rule_sets(), seed=st.integers(0, 2**32 - 1), num_blocks=st.integers(0, 12))
def test_no_row_is_lost_from_the_account_or_has_the_scores_of_another(
    ruleset: RuleSet, seed: int, num_blocks: int
):
    """Frames get lost, and the store is small."""
    num_bytes = num_blocks * 4 * SIZE * len(FEATURES)
    server, requests = server_after(ruleset, seed, loss=0.2, num_bytes=num_bytes)
    for request in requests:
        coverage = server.finished[request.name].coverage()
        assert coverage.scheduled == request.num_scheduled + request.num_cached
        assert coverage.scheduled == coverage.observed + coverage.cached + coverage.num_unseen
        assert set(coverage.unseen) <= {"evicted", "dropped_frame"}
        record = server.scores[request.name]
        got = record.score_array()
        expected = truth(request.token_ids)[record.first_recorded :][: len(got)]
        assert (np.isnan(got) | (got == expected)).all()
