"""A request whose input comes in parts, with answers between them."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_engine import end_message, frame_message, start_message, write_rules

from saeguard.monitor.alerts import PHASES, RequestRecord
from saeguard.monitor.detector import Detector
from saeguard.monitor.messages import MoreInput
from saeguard.monitor.tokens import TokenTexts
from saeguard.rules import Engine, Phase, load_rules

QUIET, LIE = [0.0, 0.0], [5.0, 0.0]


@pytest.fixture
def detector(tmp_path: Path) -> Detector:
    """With a request that has read its prompt and one token of its first answer."""
    ruleset = load_rules([write_rules(tmp_path)])
    detector = Detector(Engine(ruleset, ["deceit", "calm"]), "w", num_features=2, record_tokens=16)
    detector.start(
        start_message("a", [10, 11], is_resumable=True), TokenTexts(None, captured=False)
    )
    assert observe(detector, 1, 0, [10, 11, 12], [QUIET] * 3) == []
    return detector


def observe(detector: Detector, step: int, first: int, token_ids: list[int], scores: list):
    frame, arrays = frame_message({"a": (first, scores)}, step, "w")
    arrays.token_ids[:] = token_ids
    return detector.observe(frame, arrays, 0.0)


def finish(detector: Detector, num_scheduled: int) -> RequestRecord:
    detector.end(end_message("a", num_scheduled), 0.0)
    (record,) = (request.record(("deceit", "calm")) for request in detector.finished(0.0))
    return record


def test_more_input_is_prompt_and_what_comes_behind_it_is_answer(detector: Detector):
    detector.extend(MoreInput("a", 3, [10, 11, 12, 20, 21]))
    assert observe(detector, 2, 3, [20, 21], [LIE] * 2) == []
    (found,) = observe(detector, 3, 5, [13], [LIE])
    assert (found.match.position, found.match.phase) == (5, Phase.ANSWER)
    record = finish(detector, 6)
    assert record.coverage.complete
    assert record.prompt_len == 5


def test_rows_that_come_later_than_the_input_behind_them_are_answer(detector: Detector):
    detector.extend(MoreInput("a", 4, [10, 11, 12, 13, 20]))
    detector.extend(MoreInput("a", 6, [10, 11, 12, 13, 20, 14, 21]))
    (found,) = observe(detector, 2, 3, [13, 20, 14, 21], [LIE, LIE, QUIET, QUIET])
    assert (found.match.position, found.match.phase) == (3, Phase.ANSWER)
    observe(detector, 3, 7, [15], [QUIET])
    record = finish(detector, 8)
    names = [PHASES[code] for code in record.phases]
    assert names[2:] == ["answer", "answer", "prompt", "answer", "prompt", "answer"]


def test_what_comes_in_the_place_of_a_token_that_was_read_ahead_is_seen(detector: Detector):
    observe(detector, 2, 3, [13], [QUIET])
    detector.extend(MoreInput("a", 3, [10, 11, 12, 20]))
    assert observe(detector, 3, 3, [20], [LIE]) == [], "it is prompt"
    (found,) = observe(detector, 4, 4, [14], [LIE])
    assert found.match.position == 4
    record = finish(detector, 6)
    assert record.score_array()[1:, 0].tolist() == [0.0, 0.0, 5.0, 5.0]
    assert (record.coverage.scheduled, record.coverage.observed) == (6, 6)


def test_what_is_computed_again_after_a_preemption_is_known_by_its_tokens(detector: Detector):
    assert len(observe(detector, 2, 3, [13], [LIE])) == 1
    assert observe(detector, 3, 0, [10, 11, 12, 13], [LIE] * 4) == []
    assert observe(detector, 4, 4, [14], [QUIET]) == []


def test_of_a_request_that_is_not_known_nothing_is_made(detector: Detector):
    detector.extend(MoreInput("b", 1, [1, 2]))
    assert detector.num_live == 1
