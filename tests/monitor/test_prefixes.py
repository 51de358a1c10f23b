"""What a request has from vLLM's prefix cache is in its scores as if it had been computed."""

from __future__ import annotations

import hashlib
import itertools
import zlib
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from fake_engine import end_message, frame_message, start_message, write_rules
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from saeguard.monitor.columns import order_of
from saeguard.monitor.detector import GRACE_S, Detector
from saeguard.monitor.messages import Frame, FrameArrays, NewBlocks, PrefixUpdate, RequestStart
from saeguard.monitor.requests import LiveRequest
from saeguard.monitor.tokens import TokenTexts
from saeguard.rules import Engine, RuleSet, load_rules
from tests.rules import generate
from tests.rules.generate import FEATURES

QUIET, LIE = [0.0, 0.0], [5.0, 0.0]
NO_TEXTS = TokenTexts(None, captured=False)
SIZE = 4
"""Of a block, in tokens."""


def hashes_of(token_ids: list[int], size: int = SIZE, salt: str = "") -> list[bytes]:
    ends = range(size, len(token_ids) + 1, size)
    return [hashlib.sha256(f"{salt}{token_ids[:end]}".encode()).digest() for end in ends]


@pytest.fixture
def detector(tmp_path: Path) -> Detector:
    ruleset = load_rules([write_rules(tmp_path)])
    return Detector(Engine(ruleset, ["deceit", "calm"]), "w", num_features=2, record_tokens=64)


class Steps:
    """Says to a detector what an engine would, and finds what it makes of it."""

    def __init__(self, detector: Detector) -> None:
        self.detector = detector
        self._steps = itertools.count(1)

    def start(self, req_id: str, prompt: list[int], num_cached: int = 0, salt: str = "") -> None:
        blocks = hashes_of(prompt, salt=salt)
        message = start_message(
            req_id, prompt, num_cached=num_cached, block_size=SIZE, block_hashes=blocks
        )
        self.detector.start(message, NO_TEXTS)

    def step(self, **rows: tuple[int, list[list[float]]]) -> list[tuple[str, int]]:
        """Which requests fired, and where."""
        found = self.detector.observe(*frame_message(rows, next(self._steps), "w"), 0.0)
        return [(each.match.key, each.match.position) for each in found]

    def lose(self) -> None:
        next(self._steps)

    def made(self, req_id: str, first: int, hashes: list[bytes]) -> None:
        self.detector.update_prefixes(PrefixUpdate(made={req_id: NewBlocks(first, hashes)}))

    def end(self, req_id: str, num_scheduled: int, num_cached: int = 0) -> LiveRequest:
        self.detector.end(end_message(req_id, num_scheduled, num_cached=num_cached), 0.0)
        return next(self.detector.finished(GRACE_S))

    def scores(self, req_id: str, num_scheduled: int, num_cached: int) -> list[float]:
        """Of the first feature, from position 1 on; -1 where nothing was observed."""
        request = self.end(req_id, num_scheduled, num_cached)
        coverage = request.coverage()
        assert coverage.scheduled == coverage.observed + coverage.cached + coverage.num_unseen
        record = request.record(("deceit", "calm"))
        assert record.first_recorded == 0
        return np.nan_to_num(record.score_array()[1:, 0], nan=-1.0).tolist()


@pytest.fixture
def steps(detector: Detector) -> Steps:
    return Steps(detector)


def rows(*scores: float) -> list[list[float]]:
    return [[score, 0.0] for score in scores]


def counting(first: int, end: int) -> list[list[float]]:
    """Rows whose scores tell their position."""
    return rows(*[position / 100 for position in range(first, end)])


def counted(end: int) -> list[float]:
    return [pytest.approx(position / 100) for position in range(1, end)]


def test_a_second_request_has_the_rows_of_the_first(steps: Steps):
    prompt = list(range(10))
    steps.start("a", prompt)
    steps.step(a=(0, counting(0, 10)))
    steps.start("b", prompt, num_cached=8)
    steps.step(b=(8, counting(8, 10)))
    request = steps.end("b", num_scheduled=2, num_cached=8)
    coverage = request.coverage()
    assert (coverage.scheduled, coverage.observed, coverage.cached) == (10, 2, 8)
    assert coverage.complete
    record = request.record(("deceit", "calm"))
    assert record.score_array()[1:, 0].tolist() == counted(10)
    assert request.token_id(3) == prompt[3]


def test_a_rule_s_window_reaches_into_the_cached_prefix(steps: Steps):
    """The lie is the prompt's last token but three; the window is 8 tokens of the answer's phase,
    so the answer of the first request, of which the second has a part, must tell it.
    """
    ids = list(range(16))
    steps.start("a", ids[:5])
    steps.step(a=(0, [QUIET] * 5))
    steps.made("a", 1, hashes_of(ids[:8])[1:])
    steps.step(a=(5, [QUIET]))
    steps.step(a=(6, [[5.0, 9.0]]))  # a lie, but calm
    steps.step(a=(7, [[0.0, 9.0]]))
    steps.start("b", ids[:5], num_cached=0)
    steps.detector.update_prefixes(PrefixUpdate({"b": NewBlocks(1, hashes_of(ids[:8])[1:])}))
    steps.detector.update_prefixes(PrefixUpdate(skipped={"b": (0, 8)}))
    assert steps.step(b=(8, [QUIET])) == [("b", 8)]


def test_a_lie_in_the_cached_prefix_is_found_for_every_request(tmp_path: Path):
    path = write_rules(tmp_path)
    path.write_text(path.read_text().replace("[answer]", "[prompt]"))
    engine = Engine(load_rules([path]), ["deceit", "calm"])
    steps = Steps(Detector(engine, "w", num_features=2, record_tokens=16))
    prompt = list(range(10))
    steps.start("a", prompt)
    assert steps.step(a=(0, [QUIET] * 5 + [LIE] + [QUIET] * 4)) == [("a", 5)]
    for req_id in "bc":
        steps.start(req_id, prompt, num_cached=8)
        assert steps.step(**{req_id: (8, [QUIET] * 2)}) == [(req_id, 5)]


def test_a_request_finds_what_another_computes_in_the_same_step(steps: Steps):
    prompt = list(range(10))
    steps.start("a", prompt)
    steps.start("b", prompt, num_cached=8)
    steps.step(b=(8, counting(8, 10)), a=(0, counting(0, 10)))
    assert steps.scores("b", 2, 8) == counted(10)


def test_blocks_are_kept_whatever_the_chunks_that_they_come_in(steps: Steps):
    prompt = list(range(17))
    steps.start("a", prompt)
    for begin, end in itertools.pairwise([0, 3, 9, 10, 17]):
        steps.step(a=(begin, counting(begin, end)))
    steps.start("b", prompt, num_cached=16)
    steps.step(b=(16, counting(16, 17)))
    assert steps.scores("b", 1, 16) == counted(17)


@pytest.mark.parametrize("are_late", [False, True], ids=["in_time", "late"])
def test_the_next_turn_of_a_chat_finds_the_answer_too(steps: Steps, are_late: bool):
    ids = list(range(100, 130))
    steps.start("a", ids[:6])
    steps.step(a=(0, counting(0, 6)))
    for position in range(6, 19):
        if not are_late and position % SIZE == SIZE - 1:
            block = position // SIZE
            steps.made("a", block, hashes_of(ids[: position + 1])[block:])
        steps.step(a=(position, counting(position, position + 1)))
    if are_late:
        steps.made("a", 1, hashes_of(ids[:18])[1:])
    steps.end("a", 19)
    steps.start("b", ids, num_cached=16)
    steps.step(b=(16, counting(16, 30)))
    assert steps.scores("b", 14, 16) == counted(30)


def test_speculated_tokens_that_are_rejected_are_in_no_block(steps: Steps):
    ids = list(range(12))
    steps.start("a", ids[:5])
    steps.step(a=(0, counting(0, 5)))
    steps.made("a", 1, hashes_of(ids)[1:])
    for step, first, scores, num_drafts in [
        (2, 5, [0.05, 0.06, 9.9, 9.9], 3),  # only the first of three drafts is kept
        (3, 7, [0.07, 0.08, 9.9], 2),
        (4, 9, [0.09, 0.10, 0.11], 2),
        (5, 12, [0.12], 0),
    ]:
        rows_of_step = {"a": (first, rows(*scores))}
        frame, arrays = frame_message(rows_of_step, step, "w", num_drafts=[num_drafts])
        steps.detector.observe(frame, arrays, 0.0)
    steps.start("b", ids, num_cached=12)
    steps.detector.observe(*frame_message({"b": (12, rows(0.12))}, 6, "w"), 0.0)
    assert steps.scores("b", 1, 12) == counted(13)


def test_another_cache_salt_finds_nothing(steps: Steps):
    """vLLM would not say that it was cached; were it to, the scores would not be mixed up."""
    prompt = list(range(10))
    steps.start("a", prompt, salt="tenant a")
    steps.step(a=(0, counting(0, 10)))
    steps.start("b", prompt, num_cached=8, salt="tenant b")
    steps.step(b=(8, counting(8, 10)))
    assert steps.end("b", 2, 8).coverage().unseen == {"evicted": 8}


def test_another_model_finds_nothing(steps: Steps):
    prompt, hashes = list(range(10)), hashes_of(list(range(10)))
    steps.start("a", prompt)
    steps.step(a=(0, counting(0, 10)))
    values = {"block_size": SIZE, "block_hashes": hashes, "num_cached": 8}
    message = start_message("b", prompt, **values)
    other = {name: getattr(message, name) for name in message.__struct_fields__}
    steps.detector.start(RequestStart(**other | {"model": "another"}), NO_TEXTS)
    steps.step(b=(8, counting(8, 10)))
    assert steps.end("b", 2, 8).coverage().unseen == {"evicted": 8}


def test_what_the_store_has_lost_is_evicted_and_keeps_its_place(tmp_path: Path):
    ruleset = load_rules([write_rules(tmp_path)])
    engine = Engine(ruleset, ["deceit", "calm"])
    two_blocks = 2 * 4 * SIZE * 2
    steps = Steps(Detector(engine, "w", 2, record_tokens=64, prefix_bytes=two_blocks))
    prompt = list(range(14))
    steps.start("a", prompt)
    steps.step(a=(0, counting(0, 14)))
    steps.start("b", prompt, num_cached=12)
    steps.step(b=(12, counting(12, 14)))
    request = steps.end("b", 2, 12)
    coverage = request.coverage()
    assert (coverage.observed, coverage.cached, coverage.unseen) == (2, 8, {"evicted": 4})
    scores = request.record(("deceit", "calm")).score_array()[:, 0]
    assert np.isnan(scores[8:12]).all()
    assert [*scores[1:8], *scores[12:]] == [
        each for i, each in enumerate(counted(14)) if not 7 <= i < 11
    ]


def test_a_block_of_which_a_row_was_lost_is_not_kept(steps: Steps):
    prompt = list(range(13))
    steps.start("a", prompt)
    steps.step(a=(0, counting(0, 5)))
    steps.lose()  # 5 and 6
    steps.step(a=(7, counting(7, 13)))
    steps.start("b", prompt, num_cached=12)
    steps.step(b=(12, counting(12, 13)))
    request = steps.end("b", 1, 12)
    assert request.coverage().cached == 8
    assert request.coverage().unseen == {"evicted": 4}
    scores = request.record(("deceit", "calm")).score_array()[:, 0]
    assert np.flatnonzero(np.isnan(scores)).tolist() == [0, 4, 5, 6, 7]


def test_rows_of_a_frame_with_a_fault_are_not_kept(steps: Steps):
    prompt = list(range(9))
    steps.start("a", prompt)
    frame, arrays = frame_message({"a": (0, counting(0, 9))}, 1, "another watchlist")
    steps.detector.observe(frame, arrays, 0.0)
    steps.start("b", prompt, num_cached=8)
    steps.lose()
    steps.step(b=(8, counting(8, 9)))
    assert steps.end("b", 1, 8).coverage().unseen == {"evicted": 8}


def test_a_lost_frame_after_the_cached_prefix_is_told_from_it(steps: Steps):
    prompt = list(range(14))
    steps.start("a", prompt)
    steps.step(a=(0, counting(0, 14)))
    steps.start("b", prompt, num_cached=8)
    steps.lose()  # 8 to 11
    steps.step(b=(12, counting(12, 14)))
    request = steps.end("b", 6, 8)
    coverage = request.coverage()
    assert (coverage.observed, coverage.cached) == (2, 8)
    assert coverage.unseen == {"dropped_frame": 4}


def test_a_prefix_that_ends_within_a_block_is_known_up_to_there(steps: Steps):
    prompt = list(range(14))
    steps.start("a", prompt)
    steps.step(a=(0, counting(0, 14)))
    steps.start("b", prompt, num_cached=10)
    steps.step(b=(10, rows(*[0.5] * 4)))
    request = steps.end("b", 4, 10)
    assert request.coverage().complete
    scores = request.record(("deceit", "calm")).score_array()[1:, 0].tolist()
    assert scores == [*counted(10), *[0.5] * 4]


def test_more_cached_than_full_blocks_explain_is_evicted(steps: Steps):
    prompt = list(range(10))
    steps.start("a", prompt)
    steps.step(a=(0, counting(0, 10)))
    steps.start("b", prompt, num_cached=9)
    steps.step(b=(9, counting(9, 10)))
    coverage = steps.end("b", 1, 9).coverage()
    assert (coverage.cached, coverage.unseen) == (8, {"evicted": 1})


def test_what_a_resumed_request_skips_is_known(steps: Steps):
    """Preempted within its prompt, it goes on behind what another has computed since."""
    prompt = list(range(18))
    steps.start("a", prompt)
    steps.step(a=(0, counting(0, 6)))
    steps.start("b", prompt, num_cached=4)
    steps.step(b=(4, counting(4, 18)))
    steps.detector.update_prefixes(PrefixUpdate(skipped={"a": (6, 16)}))
    steps.step(a=(16, counting(16, 18)))
    coverage = steps.detector._requests["a"].coverage_so_far()
    assert (coverage.scheduled, coverage.observed, coverage.cached) == (18, 8, 10)
    assert steps.scores("a", 8, 10) == counted(18)


def test_what_is_skipped_is_told_from_what_was_cached_at_the_start(steps: Steps):
    """Both may be known before any row has come."""
    prompt = list(range(18))
    steps.start("a", prompt)
    steps.step(a=(0, counting(0, 18)))
    steps.start("b", prompt, num_cached=4)
    steps.detector.update_prefixes(PrefixUpdate(skipped={"b": (6, 16)}))
    steps.step(b=(4, counting(4, 6)))
    steps.step(b=(16, counting(16, 18)))
    assert steps.scores("b", 4, 14) == counted(18)
    steps.start("c", prompt, num_cached=4)
    steps.detector.update_prefixes(PrefixUpdate(skipped={"c": (6, 16)}))
    steps.lose()  # 4 and 5
    steps.step(c=(16, counting(16, 18)))
    request = steps.end("c", 4, 14)
    assert request.coverage().cached == 14
    assert request.coverage().unseen == {"dropped_frame": 2}
    scores = request.record(("deceit", "calm")).score_array()[:, 0]
    assert np.flatnonzero(np.isnan(scores)).tolist() == [0, 4, 5]


def test_columns_that_a_new_watchlist_brings_are_unknown_in_the_prefix(
    steps: Steps, tmp_path: Path
):
    prompt = list(range(10))
    steps.start("a", prompt)
    steps.step(a=(0, counting(0, 10)))
    ruleset = load_rules([write_rules(tmp_path)])
    engine = Engine(ruleset, ["calm", "deceit", "anger"])
    order = order_of(["calm", "deceit", "anger"], ["deceit", "calm"])
    steps.detector.adopt(engine, 8, "v", order)
    steps.start("b", prompt, num_cached=8)
    frame, arrays = frame_message(
        {"b": (8, [[0.08, 0.0, 0.0]] * 2)}, 2, "v", ("calm", "deceit", "anger")
    )
    steps.detector.observe(frame, arrays, 0.0)
    request = steps.end("b", 2, 8)
    assert request.coverage().complete
    scores = request.record(("calm", "deceit", "anger")).score_array()[:8]
    assert scores[1:, 1].tolist() == counted(8)
    assert np.isnan(scores[:, 2]).all()
    assert steps.detector.num_nonfinite == 0, "what is unknown is no fault of the model"


def test_an_engine_without_prefix_cache_costs_nothing(detector: Detector):
    detector.start(start_message("a", list(range(10))), NO_TEXTS)
    detector.observe(*frame_message({"a": (0, [QUIET] * 10)}, 1, "w"), 0.0)
    assert detector._prefixes._stores == {}


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
        return hashes_of(self.token_ids[: self.num_known])

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


def server_after(ruleset: RuleSet, seed: int, loss: float, num_bytes: int = 1 << 20):
    """A server that has served some conversations, and their requests."""
    rng = np.random.default_rng(seed)
    engine = Engine(ruleset, FEATURES)
    detector = Detector(engine, "w", len(FEATURES), record_tokens=128, prefix_bytes=num_bytes)
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
