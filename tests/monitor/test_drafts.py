"""Through the detector, rules see each token of a request once, as it was kept: whatever was
speculated and rejected, recomputed, or lost on the way.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import msgspec
import numpy as np
import pytest
from fake_engine import end_message, start_message
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from saeguard.monitor.alerts import Coverage
from saeguard.monitor.detector import GRACE_S, Detector
from saeguard.monitor.messages import Frame, FrameArrays
from saeguard.monitor.tokens import TokenTexts
from saeguard.rules import Engine, RequestContext, RuleSet
from saeguard.rules import Phase as TokenPhase
from tests.rules import generate, reference
from tests.rules.generate import FEATURES

REJECTED = 99.0
"""A score that would set off everything."""
NO_TEXTS = TokenTexts(None, captured=False)


@dataclass
class Simulated:
    """One request as an engine with a drafter runs it, and what a monitor should make of it."""

    name: str
    prompt_len: int
    truth: np.ndarray  # [tokens, features], of every token that is kept and read
    computed: int = 0
    seen: list[np.ndarray] = field(default_factory=list)  # as the rules should
    held: list[tuple[int, np.ndarray]] = field(default_factory=list)
    num_scheduled: int = 0
    num_rejected: int = 0
    num_lost: int = 0
    lacks_rows: bool = False

    def step(self, rng: np.random.Generator) -> tuple[int, np.ndarray, int]:
        """Its rows in a step: their first position, their scores, and how many are drafts."""
        if self.computed and rng.random() < 0.05:  # preempted: it begins again
            self.computed = 0
        first, num_drafts = self.computed, 0
        if first < self.prompt_len or first < len(self.seen):
            known = max(self.prompt_len, len(self.seen))
            rows = self.truth[first : min(first + int(rng.integers(1, 9)), known)]
            self.computed += len(rows)
            return first, rows, 0
        num_drafts = int(rng.integers(0, 4))
        num_kept = min(int(rng.integers(0, num_drafts + 1)), len(self.truth) - first - 1)
        rows = np.full((1 + num_drafts, len(FEATURES)), REJECTED, np.float32)
        rows[: 1 + num_kept] = self.truth[first : first + 1 + num_kept]
        self.computed += 1 + num_kept
        return first, rows, num_drafts

    def arrive(self, first: int, rows: np.ndarray, num_drafts: int) -> None:
        """The rows reach the monitor."""
        self.num_scheduled += len(rows)
        self.settle(first)
        certain = len(rows) - num_drafts
        for position, scores in enumerate(rows[:certain], start=first):
            self._see(position, scores)
        self.held = list(enumerate(rows[certain:], start=first + certain))

    def lose(self, rows: np.ndarray) -> None:
        """They do not."""
        self.num_scheduled += len(rows)
        self.num_lost += len(rows)
        self.lacks_rows = True

    def lose_held(self) -> None:
        """After a lost frame nobody knows which of its drafts were kept."""
        self.num_lost += len(self.held)
        self.held = []

    def end(self) -> None:
        """Its last drafts are known by the number of its tokens, unless a later step was lost."""
        if self.lacks_rows:
            self.lose_held()
        self.settle(len(self.truth))

    def settle(self, next_position: int) -> None:
        for position, scores in self.held:
            if position < next_position:
                assert (scores != REJECTED).all(), "the simulation itself confuses drafts"
                self._see(position, scores)
            else:
                self.num_rejected += 1
        self.held = []

    def _see(self, position: int, scores: np.ndarray) -> None:
        if position >= len(self.seen):
            unseen = np.full(len(FEATURES), np.nan, np.float32)
            self.seen += [unseen] * (position - len(self.seen))
            self.seen.append(scores if position else unseen)  # the first token is never looked at

    @property
    def is_done(self) -> bool:
        return self.computed == len(self.truth)


def frame_of(rows: dict[str, tuple[int, np.ndarray, int]], step: int, num_lost: int):
    counts = [len(scores) for _, scores, _ in rows.values()]
    positions = [np.arange(first, first + len(scores)) for first, scores, _ in rows.values()]
    frame = Frame(
        worker=0,
        step=step,
        watchlist="w",
        req_ids=list(rows),
        row_starts=np.cumsum([0, *counts]).tolist(),
        tap_calls=[step],
        num_features=len(FEATURES),
        time_ns=step,
        dropped_frames=num_lost,
        num_drafts=[num_drafts for _, _, num_drafts in rows.values()],
    )
    scores = np.concatenate([scores for _, scores, _ in rows.values()])
    together = np.concatenate(positions).astype(np.int32)
    return frame, FrameArrays(scores, together + 100, together)


def run(rng: np.random.Generator, detector: Detector, requests: list[Simulated], loss: float):
    """Play the requests; every match that the detector reports."""
    found, num_lost, step = [], 0, 0
    ended: set[str] = set()
    while len(ended) < len(requests):
        step += 1
        members = [r for r in requests if r.name not in ended and rng.random() < 0.8]
        rows = {request.name: request.step(rng) for request in members}
        if rows and rng.random() < loss:
            num_lost += 1
            for request in requests:
                request.lose_held()
            for request in members:
                request.lose(rows[request.name][1])
        elif rows:
            for request in members:
                request.arrive(*rows[request.name])
            found += detector.observe(*frame_of(rows, step, num_lost), now_s=0.0)
        for request in [r for r in members if r.is_done]:
            ended.add(request.name)
            request.end()
            num_output = len(request.truth) + 1 - request.prompt_len
            found += detector.end(
                end_message(request.name, request.num_scheduled, num_output_tokens=num_output), 0.0
            )
    return [detection.match for detection in found]


def plain(match):
    readings = {
        name: replace(each, value=pytest.approx(each.value, rel=1e-9, abs=1e-9, nan_ok=True))
        for name, each in match.readings.items()
    }
    return replace(match, rule=match.rule.name, readings=readings)


@settings(
    max_examples=150,
    derandomize=True,
    phases=(Phase.generate,),
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(ruleset=generate.rule_sets(), seed=st.integers(0, 2**32 - 1))
def test_rules_see_each_token_once_as_it_was_kept(ruleset: RuleSet, seed: int):
    rng = np.random.default_rng(seed)
    detector = Detector(Engine(ruleset, FEATURES), "w", len(FEATURES), record_tokens=16)
    requests = []
    for name in "abc"[: rng.integers(1, 4)]:
        prompt_len = int(rng.integers(1, 20))
        length = prompt_len + int(rng.integers(1, 60))
        truth = generate.random_scores(rng, length, share_nonzero=0.5, share_holes=0.0)
        requests.append(Simulated(name, prompt_len, truth))
        detector.start(start_message(name, [1] * prompt_len, tenant="a"), NO_TEXTS)
    found = run(rng, detector, requests, loss=float(rng.choice([0.0, 0.05, 0.2])))
    finished = {request.start.req_id: request for request in detector.finished(GRACE_S + 1)}
    for request in requests:
        scores = np.array(request.seen)
        positions = np.arange(len(scores))
        in_prompt = positions < request.prompt_len
        phases = np.where(in_prompt, TokenPhase.PROMPT, TokenPhase.ANSWER).astype(np.uint8)
        expected = reference.evaluate(
            ruleset,
            request.name,
            RequestContext(model="synthetic", tenant="a", id=request.name),
            scores,
            positions,
            phases,
            list(FEATURES),
        )
        mine = [match for match in found if match.key == request.name]
        assert [replace(match, rule=match.rule.name) for match in mine] == list(
            map(plain, expected)
        )
        coverage = finished[request.name].coverage()
        assert coverage.scheduled == request.num_scheduled - request.num_rejected
        assert coverage.unseen == ({"dropped_frame": request.num_lost} if request.num_lost else {})


def test_drafts_before_a_frame_that_is_not_believed_are_not_taken_for_kept():
    """What the model rejected is computed again in that frame, of which nothing is used."""
    engine = Engine(RuleSet("none", "1.0.0", "0" * 64, {}, ()), FEATURES)
    detector = Detector(engine, "w", len(FEATURES), record_tokens=16)
    detector.start(start_message("a", [1, 2]), NO_TEXTS)
    rows = np.zeros((3, len(FEATURES)), np.float32)
    steps = [(0, 2, 0, "w"), (2, 3, 2, "w"), (3, 1, 0, "other"), (4, 1, 0, "w")]
    for step, (first, count, num_drafts, watchlist) in enumerate(steps):
        frame, arrays = frame_of({"a": (first, rows[:count], num_drafts)}, step, 0)
        detector.observe(msgspec.structs.replace(frame, watchlist=watchlist), arrays, 0.0)
    detector.end(end_message("a", 7, num_output_tokens=4), 0.0)
    (request,) = detector.finished(0.0)
    assert request.coverage() == Coverage(5, 4, 0, {"other_watchlist": 1})
