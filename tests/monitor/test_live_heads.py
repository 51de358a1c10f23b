"""A head scores a token as its definition says, from the tokens so far, however they came."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fake_engine import start_message
from hypothesis import HealthCheck, given, settings
from hypothesis import Phase as Stage
from hypothesis import strategies as st

from saeguard.monitor.detector import GRACE_S, Detector
from saeguard.monitor.heads import Head
from saeguard.monitor.live_heads import LiveHeads, with_scores
from saeguard.monitor.messages import Frame, FrameArrays
from saeguard.monitor.tokens import TokenTexts
from saeguard.rules import Engine, Phase, RequestContext, RuleSet
from saeguard.rules.recordings.offline import RecordedRequest
from tests.monitor.test_drafts import Simulated, run
from tests.monitor.test_prefixes_simulated import server_after, truth
from tests.rules import generate
from tests.rules.generate import FEATURES

NO_RULES = RuleSet("none", "1.0.0", "0" * 64, {}, ())
NO_TEXTS = TokenTexts(None, captured=False)
COLUMNS = ("head", "head/0", "head/1", "head/2")
"""In the places of `FEATURES`."""
MIX = ((0.5, -1.0, 2.0), (1.0, 0.25, -0.5), (-3.0, 0.0, 1.0), (0.0, 1.0, 0.0))
HEADS = {
    "attention": Head("attention", 2, bias=0.5),
    "attention of the request": Head("attention", 2, over="request"),
    "deep attention": Head("attention", 3, "silu", MIX, over="request"),
    "multimax": Head("multimax", 3, bias=-1.0),
    "multimax of the request": Head("multimax", 3, over="request"),
    "deep multimax": Head("multimax", 3, "gelu_tanh", MIX[:2]),
    "mlp": Head("linear", 3, "relu", MIX[:1], 0.25),
    "energy": Head("subspace", 3),
    "angle": Head("angle", 2),
}
ACTIVATIONS = {
    "relu": lambda p: p if p > 0 else 0.0,
    "silu": lambda p: p / (1 + np.exp(-p)),
    "gelu_tanh": lambda p: p / (1 + np.exp(-2 * (2 / np.pi) ** 0.5 * (p + 0.044715 * p**3))),
}

random_cases = settings(
    max_examples=12,
    derandomize=True,
    phases=(Stage.generate,),
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
seeds = st.integers(0, 2**32 - 1)


def naive(head: Head, rows: np.ndarray, phases: np.ndarray) -> np.ndarray:
    """Token by token, each from all tokens before it; row i is that of position i."""
    scores = np.full(len(rows), np.nan)
    for t in range(1, len(rows)):
        begin = 1
        if head.over == "phase":
            begin = max(1, *(i for i in range(t + 1) if i == 0 or phases[i] != phases[i - 1]))
        if not np.isnan(rows[t]).any():
            scores[t] = _score(head, rows[begin : t + 1].astype(np.float64)) + head.bias
    return scores


def _score(head: Head, rows: np.ndarray) -> float:
    """Of the last of these tokens."""
    seen = [[float(p) for p in row] for row in rows if not np.isnan(row).any()]
    if head.activation:
        with np.errstate(over="ignore"):
            activated = [[ACTIVATIONS[head.activation](p) for p in row] for row in seen]
        seen = [[np.dot(mix, row) for mix in head.mix] for row in activated]
    match head.kind:
        case "attention":
            half = len(seen[0]) // 2
            if 2 * len(seen) < len(rows):
                return np.nan
            total = 0.0
            for h in range(half):
                weights = np.exp([row[h] - max(other[h] for other in seen) for row in seen])
                total += np.dot(weights, [row[half + h] for row in seen]) / weights.sum()
            return total
        case "multimax":
            return sum(max(column) for column in zip(*seen, strict=True))
        case "linear":
            return seen[-1][0]
        case "subspace":
            return sum(p**2 for p in seen[-1])
        case _:
            x, y = seen[-1]
            return np.nan if x == y == 0 else np.degrees(np.arctan2(y, x))


def columns_of(head: Head) -> tuple[str, ...]:
    return COLUMNS[: 1 + head.num_rows]


def padded(head: Head) -> LiveHeads:
    return LiveHeads({"head": head}, COLUMNS)


def random_rows(rng: np.random.Generator, num_tokens: int, num_rows: int) -> np.ndarray:
    rows = rng.normal(scale=rng.choice([0.1, 3.0, 300.0]), size=(num_tokens, num_rows))
    rows[rng.random(num_tokens) < rng.choice([0.0, 0.2, 0.6])] = np.nan
    rows[0] = np.nan
    return rows.astype(np.float32)


def random_phases(rng: np.random.Generator, num_tokens: int) -> np.ndarray:
    changes = rng.random(num_tokens) < rng.choice([0.0, 0.1, 0.4])
    return (np.cumsum(changes) % len(Phase)).astype(np.uint8)


def assert_same(got: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", HEADS)
@random_cases
@given(seed=seeds)
def test_any_chunks_of_any_requests_make_the_scores_of_the_whole(name: str, seed: int):
    rng, head = np.random.default_rng(seed), HEADS[name]
    live = LiveHeads({"head": head}, columns_of(head))
    requests = [
        (random_rows(rng, n, head.num_rows), random_phases(rng, n))
        for n in rng.integers(1, 60, rng.integers(1, 5))
    ]
    got = [np.full(len(phases), np.nan) for _, phases in requests]
    slots = rng.permutation(200)[: len(requests)]  # some lie beyond the first room
    for slot in slots:
        live.open(int(slot))
    done = np.zeros(len(requests), int)
    while any(done[i] < len(phases) for i, (_, phases) in enumerate(requests)):
        parts = []
        for i in rng.permutation(len(requests)):
            end = min(done[i] + rng.integers(0, 1 + rng.choice([1, 3, 40])), len(got[i]))
            if end > done[i]:
                parts.append((i, done[i], end))
                done[i] = end
        if not parts:
            continue
        scores = np.concatenate([requests[i][0][a:b] for i, a, b in parts])
        scores = np.pad(scores, ((0, 0), (1, 0)))  # what the taps leave in the head's own column
        positions = np.concatenate([np.arange(a, b, dtype=np.int32) for _, a, b in parts])
        phases = np.concatenate([requests[i][1][a:b] for i, a, b in parts])
        starts = np.cumsum([0, *(b - a for _, a, b in parts)])
        live.fill(slots[[i for i, _, _ in parts]], starts, scores, positions, phases)
        for (i, a, b), begin in zip(parts, starts, strict=False):
            got[i][a:b] = scores[begin : begin + b - a, 0]
    for (rows, phases), scores in zip(requests, got, strict=True):
        assert_same(scores, naive(head, rows, phases))


@pytest.mark.parametrize("name", ["attention", "deep attention", "multimax"])
@random_cases
@given(seed=seeds, loss=st.sampled_from([0.0, 0.1]))
def test_drafts_preemptions_and_lost_frames_leave_the_scores_right(
    name: str, seed: int, loss: float
):
    rng, head = np.random.default_rng(seed), HEADS[name]
    live = padded(head)
    detector = Detector(Engine(NO_RULES, COLUMNS), "w", len(COLUMNS), 256, heads=live)
    requests = []
    for request in "abc":
        prompt_len = int(rng.integers(1, 20))
        rows = generate.random_scores(rng, prompt_len + int(rng.integers(1, 60)), 1.0, 0.0)
        requests.append(Simulated(request, prompt_len, rows))
        detector.start(start_message(request, [1] * prompt_len), NO_TEXTS)
    run(rng, detector, requests, loss)
    finished = {request.start.req_id: request for request in detector.finished(GRACE_S + 1)}
    for request in requests:
        seen = np.array(request.seen)
        phases = np.where(np.arange(len(seen)) < request.prompt_len, Phase.PROMPT, Phase.ANSWER)
        record = finished[request.name].record(COLUMNS, set(COLUMNS[1:]))
        assert record.features == ["head"]
        expected = naive(head, seen[:, 1 : 1 + head.num_rows], phases)
        assert_same(record.score_array()[:, 0], expected)


@pytest.mark.parametrize("name", ["attention of the request", "attention", "multimax", "mlp"])
@random_cases
@given(seed=seeds)
def test_tokens_from_the_prefix_cache_count_as_if_they_were_computed(name: str, seed: int):
    head = HEADS[name]
    server, requests = server_after(NO_RULES, seed, loss=0.0, heads=padded(head))
    assert sum(request.num_cached for request in requests) > 0
    for request in requests:
        rows = truth(request.token_ids)[:-1, 1 : 1 + head.num_rows].copy()
        rows[0] = np.nan
        phases = np.where(np.arange(len(rows)) < request.prompt_len, Phase.PROMPT, Phase.ANSWER)
        got = server.scores[request.name].score_array()[:, 0]
        assert_same(got, naive(head, rows, phases))


@random_cases
@given(seed=seeds, num_blocks=st.integers(0, 12))
def test_tokens_that_the_prefix_cache_has_lost_are_not_made_up(seed: int, num_blocks: int):
    num_bytes = num_blocks * 4 * 4 * len(FEATURES)
    head = HEADS["attention of the request"]
    server, requests = server_after(
        NO_RULES, seed, loss=0.2, num_bytes=num_bytes, heads=padded(head)
    )
    for request in requests:
        scores = server.scores[request.name].score_array()
        rows = scores[:, 1 : 1 + head.num_rows]
        phases = np.zeros(len(rows))
        assert_same(scores[:, 0], naive(head, rows, phases))


@pytest.mark.parametrize("name", HEADS)
def test_a_recording_scores_as_the_live_request(name: str):
    rng, head = np.random.default_rng(5), HEADS[name]
    rows, phases = random_rows(rng, 80, head.num_rows), random_phases(rng, 80)
    request = RecordedRequest(
        RequestContext(), columns_of(head), np.pad(rows, ((0, 0), (1, 0))),
        np.arange(80, dtype=np.int32), phases,
    )  # fmt: skip
    scored = with_scores(request, {"head": head})
    assert scored.columns == ("head",)
    assert_same(scored.scores[:, 0], naive(head, rows, phases))


def test_logits_that_no_float_could_be_the_exponential_of_are_no_trouble():
    rows = np.array([[np.nan] * 2, [-5000, 1], [0, 2], [5000, 3], [4990, 9], [-9000, 7]], "f4")
    phases = np.zeros(len(rows), np.uint8)
    request = RecordedRequest(
        RequestContext(), COLUMNS[:3], np.pad(rows, ((0, 0), (1, 0))),
        np.arange(len(rows), dtype=np.int32), phases,
    )  # fmt: skip
    (scores,) = with_scores(request, {"head": Head("attention", 2)}).scores.T
    rise = np.exp(-10)
    last = (3 + 9 * rise) / (1 + rise)
    np.testing.assert_allclose(scores, [np.nan, 1, 2, 3, last, last], rtol=1e-6)


def test_a_score_too_large_for_its_column_is_none():
    rows = np.full((2, 3), 1e30, np.float32)
    request = RecordedRequest(
        RequestContext(), COLUMNS, np.pad(rows, ((0, 0), (1, 0))),
        np.arange(1, 3, dtype=np.int32), np.zeros(2, np.uint8),
    )  # fmt: skip
    assert np.isnan(with_scores(request, {"head": HEADS["energy"]}).scores).all()


class Stream:
    """One request of a detector, whose watchlist may change."""

    def __init__(self, head: Head | None) -> None:
        heads = padded(head) if head else None
        self.detector = Detector(Engine(NO_RULES, COLUMNS), "w0", 4, 256, heads=heads)
        self.detector.start(start_message("a", [1] * 4), NO_TEXTS)
        self.watchlist, self.num_steps, self.rows = "w0", 0, np.empty((0, 4), np.float32)

    def go_on(self, num_tokens: int) -> None:
        rng = np.random.default_rng(self.num_steps)
        rows = rng.normal(size=(num_tokens, 4)).astype(np.float32)
        first, self.rows = len(self.rows), np.concatenate([self.rows, rows])
        self.num_steps += 1
        frame = Frame(
            worker=0, step=self.num_steps, watchlist=self.watchlist, req_ids=["a"],
            row_starts=[0, num_tokens], tap_calls=[self.num_steps], num_features=4,
            time_ns=0, dropped_frames=0,
        )  # fmt: skip
        positions = np.arange(first, first + num_tokens, dtype=np.int32)
        self.detector.observe(frame, FrameArrays(rows, positions, positions), 0.0)

    def change(self, head: Head, is_same: bool) -> None:
        """To a watchlist of the same columns, of which the head's may mean another thing."""
        self.watchlist = f"w{self.num_steps}"
        order = np.array([0 if is_same else -1, 1, 2, 3])
        identities = ("old" if is_same else f"new {self.num_steps}", *COLUMNS[1:])
        heads = LiveHeads({"head": head}, COLUMNS, identities)
        self.detector.adopt(Engine(NO_RULES, COLUMNS), 1, self.watchlist, order, heads)

    def scores(self) -> np.ndarray:
        request = self.detector._requests["a"]
        return request.table.get(request.slot)[0].scores[:, 0]


ATTENTION = HEADS["attention of the request"]


def test_a_head_that_a_new_watchlist_leaves_as_it_is_goes_on():
    stream = Stream(None)
    stream.detector._heads = LiveHeads({"head": ATTENTION}, COLUMNS, ("old", *COLUMNS[1:]))
    for _ in range(3):
        stream.go_on(7)
        stream.change(ATTENTION, is_same=True)
    stream.go_on(1)
    rows = stream.rows[:, 1:3].copy()
    rows[0] = np.nan
    assert_same(stream.scores(), naive(ATTENTION, rows, np.zeros(len(rows))))


@pytest.mark.parametrize("before", [None, HEADS["multimax"], replace(ATTENTION, bias=3.0)])
def test_a_new_head_says_nothing_until_it_has_seen_half_of_the_tokens(before: Head | None):
    stream = Stream(before)
    stream.go_on(10)
    stream.change(ATTENTION, is_same=False)
    stream.go_on(5)
    stream.go_on(20)
    rows = stream.rows[:, 1:3].copy()
    rows[:10] = np.nan
    expected = naive(ATTENTION, rows, np.zeros(len(rows)))
    assert np.isnan(expected).sum() == 10 + 8, "9 of the tokens before, and so many of its own"
    assert_same(stream.scores(), expected)


def test_a_new_head_that_looks_at_one_token_begins_at_once():
    stream = Stream(None)
    stream.go_on(3)
    stream.change(HEADS["energy"], is_same=False)
    stream.go_on(2)
    expected = (stream.rows[3:, 1:].astype(float) ** 2).sum(axis=1)
    assert_same(stream.scores(), np.array([np.nan] * 3 + expected.tolist()))
