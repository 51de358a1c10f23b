"""What a request has from vLLM's prefix cache is in its scores as if it had been computed."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from fake_engine import end_message, frame_message, hashes_of, start_message, write_rules

from saeguard.monitor.columns import order_of
from saeguard.monitor.detector import GRACE_S, Detector
from saeguard.monitor.messages import NewBlocks, PrefixUpdate, RequestStart
from saeguard.monitor.requests import LiveRequest
from saeguard.monitor.tokens import TokenTexts
from saeguard.rules import Engine, load_rules

QUIET, LIE = [0.0, 0.0], [5.0, 0.0]
NO_TEXTS = TokenTexts(None, captured=False)
SIZE = 4
"""Of a block, in tokens."""


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
        blocks = hashes_of(prompt, SIZE, salt)
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


COLUMNS = ("calm", "deceit", "anger")
"""Of a watchlist with one more feature, in another order."""


def change_watchlist(steps: Steps, tmp_path: Path) -> None:
    ruleset = load_rules([write_rules(tmp_path)])
    order = order_of(COLUMNS, ["deceit", "calm"])
    steps.detector.adopt(Engine(ruleset, list(COLUMNS)), 8, "v", order)


def observe(steps: Steps, first: int, end: int, watchlist: str = "v", req_id: str = "b") -> None:
    """Rows of either watchlist."""
    columns = COLUMNS if watchlist == "v" else ("deceit", "calm")
    values = {"deceit": [n / 100 for n in range(first, end)]}
    scores = [[values[c][i] if c in values else 0.0 for c in columns] for i in range(end - first)]
    frame = frame_message({req_id: (first, scores)}, next(steps._steps), watchlist, columns)
    steps.detector.observe(*frame, 0.0)


def test_a_prefix_without_the_scores_of_a_new_feature_does_not_count_as_cached(
    steps: Steps, tmp_path: Path
):
    """Rules on the other features still see it."""
    prompt = list(range(10))
    steps.start("a", prompt)
    steps.step(a=(0, counting(0, 10)))
    change_watchlist(steps, tmp_path)
    steps.start("b", prompt, num_cached=8)
    observe(steps, 8, 10)
    request = steps.end("b", 2, 8)
    coverage = request.coverage()
    assert (coverage.scheduled, coverage.observed, coverage.cached) == (10, 2, 0)
    assert coverage.unseen == {"other_watchlist": 8}
    scores = request.record(COLUMNS).score_array()[:8]
    assert scores[1:, 1].tolist() == counted(8)
    assert np.isnan(scores[:, 2]).all()
    assert steps.detector.num_nonfinite == 0, "what is unknown is no fault of the model"


def test_a_block_that_was_begun_before_a_change_of_features_is_not_whole(
    steps: Steps, tmp_path: Path
):
    prompt = list(range(17))
    steps.start("a", prompt)
    steps.step(a=(0, counting(0, 6)))
    change_watchlist(steps, tmp_path)
    observe(steps, 6, 17, req_id="a")
    steps.start("b", prompt, num_cached=16)
    observe(steps, 16, 17)
    coverage = steps.end("b", 1, 16).coverage()
    assert (coverage.cached, coverage.unseen) == (8, {"other_watchlist": 8})


def test_rows_that_a_worker_still_scored_by_the_old_watchlist_make_no_whole_block(
    steps: Steps, tmp_path: Path
):
    prompt = list(range(17))
    change_watchlist(steps, tmp_path)
    steps.start("a", prompt)
    observe(steps, 0, 10, "w", req_id="a")
    observe(steps, 10, 17, req_id="a")
    steps.start("b", prompt, num_cached=16)
    observe(steps, 16, 17)
    coverage = steps.end("b", 1, 16).coverage()
    assert (coverage.cached, coverage.unseen) == (4, {"other_watchlist": 12})
    assert steps.detector.num_nonfinite == 0, (
        "what the old watchlist lacks is no fault of the model"
    )


def test_an_engine_without_prefix_cache_costs_nothing(detector: Detector):
    detector.start(start_message("a", list(range(10))), NO_TEXTS)
    detector.observe(*frame_message({"a": (0, [QUIET] * 10)}, 1, "w"), 0.0)
    assert detector._prefixes._stores == {}
