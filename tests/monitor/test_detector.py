"""The detector joins rows to requests and accounts for every one of them."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from chat_models import QWEN_3
from fake_engine import end_message, frame_message, start_message, write_rules

from saeguard.monitor.columns import order_of
from saeguard.monitor.detector import GRACE_S, Detector
from saeguard.monitor.messages import FrameArrays
from saeguard.monitor.tokens import TokenTexts
from saeguard.rules import Engine, Phase, load_rules

QUIET, LIE = [0.0, 0.0], [5.0, 0.0]
NO_TEXTS = TokenTexts(None, captured=False)


@pytest.fixture
def detector(tmp_path: Path) -> Detector:
    ruleset = load_rules([write_rules(tmp_path)])
    return Detector(Engine(ruleset, ["deceit", "calm"]), "w", num_features=2, record_tokens=16)


def observe(detector: Detector, step: int, now_s: float = 0.0, watchlist: str = "w", **rows):
    return detector.observe(*frame_message(rows, step, watchlist), now_s)


def finish(detector: Detector, req_id: str, num_scheduled: int, now_s: float = 0.0, **fields):
    detector.end(end_message(req_id, num_scheduled, **fields), now_s)
    return list(detector.finished(now_s))


def test_a_lie_in_the_answer_is_detected_at_its_own_token(detector: Detector):
    detector.start(start_message("a", [1, 2, 3]), NO_TEXTS)
    assert observe(detector, 1, a=(0, [QUIET] * 3)) == []
    assert observe(detector, 2, a=(3, [QUIET])) == []
    (found,) = observe(detector, 3, a=(4, [LIE]))
    assert (found.match.position, found.match.phase) == (4, Phase.ANSWER)


def test_the_same_scores_in_the_prompt_are_not(detector: Detector):
    detector.start(start_message("a", [1, 2, 3]), NO_TEXTS)
    assert observe(detector, 1, a=(0, [LIE] * 3)) == []


def test_rows_of_two_requests_in_one_frame_go_to_their_own_request(detector: Detector):
    for req_id in "ab":
        detector.start(start_message(req_id, [1]), NO_TEXTS)
    observe(detector, 1, a=(0, [QUIET]), b=(0, [QUIET]))
    (found,) = observe(detector, 2, b=(1, [LIE]), a=(1, [QUIET]))
    assert found.request.start.req_id == "b"


def test_rows_that_come_before_their_request_wait_for_it(detector: Detector):
    assert observe(detector, 1, a=(0, [QUIET, LIE])) == []
    (found,) = detector.start(start_message("a", [1]), NO_TEXTS)
    assert found.match.position == 1
    (request,) = finish(detector, "a", 2)
    assert request.coverage().observed == request.coverage().scheduled == 2


def test_rows_of_a_request_that_is_never_announced_are_counted(detector: Detector):
    observe(detector, 1, a=(0, [QUIET] * 7))
    assert list(detector.finished(GRACE_S + 1)) == []
    assert detector.num_orphans == 7


def test_a_request_waits_for_its_last_rows_after_its_end(detector: Detector):
    detector.start(start_message("a", [1, 2]), NO_TEXTS)
    observe(detector, 1, a=(0, [QUIET] * 2))
    assert finish(detector, "a", num_scheduled=3) == []
    observe(detector, 2, a=(2, [QUIET]))
    (finished,) = detector.finished(0.0)
    assert finished.coverage().complete


def test_a_lost_frame_is_a_hole_with_a_reason(detector: Detector):
    detector.start(start_message("a", [1, 2]), NO_TEXTS)
    observe(detector, 1, a=(0, [QUIET] * 2))
    observe(detector, 3, a=(3, [QUIET]))
    finish(detector, "a", num_scheduled=4)
    (finished,) = detector.finished(GRACE_S)
    coverage = finished.coverage()
    assert (coverage.scheduled, coverage.observed) == (4, 3)
    assert coverage.unseen == {"dropped_frame": 1}


def test_tokens_from_the_prefix_cache_are_not_called_seen(detector: Detector):
    detector.start(start_message("a", list(range(40)), num_cached=32), NO_TEXTS)
    observe(detector, 1, a=(32, [QUIET] * 8))
    (finished,) = finish(detector, "a", num_scheduled=8, num_cached=32)
    coverage = finished.coverage()
    assert (coverage.scheduled, coverage.observed) == (40, 8)
    assert coverage.unseen == {"evicted": 32}


def test_rows_computed_again_after_a_preemption_change_nothing(detector: Detector):
    detector.start(start_message("a", [1]), NO_TEXTS)
    observe(detector, 1, a=(0, [QUIET]))
    assert len(observe(detector, 2, a=(1, [LIE]))) == 1
    assert observe(detector, 3, a=(0, [QUIET, LIE])) == []
    assert observe(detector, 4, a=(2, [QUIET])) == []
    (finished,) = finish(detector, "a", num_scheduled=5)
    assert finished.coverage().complete


def test_scores_of_taps_that_did_not_run_are_not_believed(detector: Detector):
    detector.start(start_message("a", [1]), NO_TEXTS)
    observe(detector, 1, a=(0, [QUIET]))
    frame, arrays = frame_message({"a": (1, [LIE])}, 2, "w", tap_calls=[1])
    assert detector.observe(frame, arrays, 0.0) == []
    assert not detector.workers.is_alive(0)
    (finished,) = finish(detector, "a", num_scheduled=2)
    assert finished.coverage().unseen == {"dead_tap": 1}


def test_the_taps_of_two_engines_are_counted_apart(detector: Detector):
    for step, (worker, count) in enumerate([(0, 7), (1, 3), (0, 8), (1, 4), (1, 4)]):
        frame, arrays = frame_message({"a": (step, [QUIET])}, step, "w", tap_calls=[count])
        detector.observe(msgspec.structs.replace(frame, worker=worker), arrays, 0.0)
        assert detector.workers.is_alive(1) == (step < 4)
        assert detector.workers.is_alive(0)


def test_scores_of_another_watchlist_are_not_believed(detector: Detector):
    detector.start(start_message("a", [1]), NO_TEXTS)
    assert observe(detector, 1, watchlist="other", a=(0, [QUIET, LIE])) == []
    (finished,) = finish(detector, "a", num_scheduled=2)
    assert finished.coverage().unseen == {"other_watchlist": 2}


def test_scores_of_the_watchlist_before_are_taken_by_name(detector: Detector):
    detector.accept_watchlist("before", order_of(["deceit", "calm"], ["calm", "deceit"]))
    detector.start(start_message("a", [1]), NO_TEXTS)
    observe(detector, 1, a=(0, [QUIET]))
    assert observe(detector, 2, watchlist="before", a=(1, [LIE])) == []  # it says: calm is 5
    (found,) = observe(detector, 3, watchlist="before", a=(2, [LIE[::-1]]))
    assert found.match.position == 2


def test_scores_that_are_no_numbers_are_counted_and_never_fire(detector: Detector):
    detector.start(start_message("a", [1]), NO_TEXTS)
    assert observe(detector, 1, a=(0, [QUIET, [np.nan, 0.0], [np.inf, 0.0]])) == []
    assert detector.num_nonfinite == 2


def test_a_row_that_is_computed_again_is_no_second_fault(detector: Detector):
    detector.start(start_message("a", [1]), NO_TEXTS)
    broken = [QUIET, [np.nan, 0.0]]
    observe(detector, 1, a=(0, broken))
    observe(detector, 2, a=(0, [*broken, [np.nan, 0.0]]))
    assert detector.num_nonfinite == 2


def test_rows_at_which_the_rules_fail_were_not_seen(
    detector: Detector, monkeypatch: pytest.MonkeyPatch
):
    for req_id in "ab":
        detector.start(start_message(req_id, [1]), NO_TEXTS)
    observe(detector, 1, a=(0, [QUIET]), b=(0, [QUIET] * 2))
    with monkeypatch.context() as broken:
        broken.setattr(detector._engine, "observe", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            observe(detector, 2, a=(1, [QUIET] * 3), b=(2, [QUIET]))
    observe(detector, 3, a=(4, [QUIET]))
    detector.end(end_message("a", 5), 0.0)
    detector.end(end_message("b", 3), 0.0)
    a, b = (request.coverage() for request in detector.finished(0.0))
    assert (a.scheduled, a.observed, a.unseen) == (5, 2, {"failed": 3})
    assert (b.scheduled, b.observed, b.unseen) == (3, 2, {"failed": 1})


def test_the_first_token_is_masked_as_an_attention_sink(detector: Detector):
    detector.start(start_message("a", []), NO_TEXTS)
    assert observe(detector, 1, a=(0, [LIE])) == []
    assert detector.num_nonfinite == 0


def test_the_record_keeps_the_last_tokens_and_marks_what_was_not_seen(detector: Detector):
    detector.start(start_message("a", [1]), NO_TEXTS)
    for step in range(1, 31):
        if step != 28:
            observe(detector, step, a=(step - 1, [[float(step - 1), 0.0]]))
    finish(detector, "a", num_scheduled=30)
    finished = next(detector.finished(GRACE_S))
    record = finished.record(("deceit", "calm"))
    assert (record.first_recorded, len(record.phases)) == (14, 16)
    deceit = record.score_array()[:, 0]
    assert np.isnan(deceit[27 - 14])
    assert deceit[-1] == 29.0


def test_many_waiting_requests_take_no_slots_of_the_rule_engine(tmp_path: Path):
    ruleset = load_rules([write_rules(tmp_path)])
    detector = Detector(Engine(ruleset, ["deceit", "calm"], max_requests=2), "w", 2, 16)
    for i in range(50):
        detector.start(start_message(f"r{i}", [1]), NO_TEXTS)
    assert len(observe(detector, 1, r49=(0, [QUIET, LIE]))) == 1
    assert detector.num_unevaluated == 0


def test_a_window_spans_the_tokens_of_a_lost_frame(detector: Detector):
    """The rule's window is 8 tokens: a lie 10 tokens back must be out of it, lost frames or not."""
    detector.start(start_message("a", [1]), NO_TEXTS)
    observe(detector, 1, a=(0, [QUIET, [5.0, 9.0]]))  # a lie, but calm: it does not fire yet
    assert observe(detector, 2, a=(11, [QUIET])) == []


def test_rows_that_wait_for_their_request_keep_their_frame_s_fault(detector: Detector):
    observe(detector, 1, watchlist="other", a=(0, [QUIET, LIE]))
    assert detector.start(start_message("a", [1]), NO_TEXTS) == []
    (finished,) = finish(detector, "a", num_scheduled=2)
    assert finished.coverage().unseen == {"other_watchlist": 2}


def test_a_request_of_which_no_row_came_has_an_empty_record(detector: Detector):
    detector.start(start_message("a", [1]), NO_TEXTS)
    finish(detector, "a", num_scheduled=5)
    finished = next(detector.finished(GRACE_S))
    record = finished.record(("deceit", "calm"))
    assert record.coverage.unseen == {"dropped_frame": 5}
    assert record.score_array().shape == (0, 2)


def test_a_thousand_requests_at_once_keep_their_own_rows(detector: Detector):
    """More than the row table starts with."""
    names = [f"r{i}" for i in range(1000)]
    for name in names:
        detector.start(start_message(name, [1]), NO_TEXTS)
    for step in range(3):
        rows = {name: (step, [[i / 1000, 0.0]]) for i, name in enumerate(names)}
        detector.observe(*frame_message(rows, step + 1, "w"), 0.0)
    for i in (0, 63, 64, 999):
        finish(detector, names[i], num_scheduled=9)
        finished = next(detector.finished(GRACE_S))
        record = finished.record(("deceit", "calm"))
        np.testing.assert_allclose(record.score_array()[1:, 0], i / 1000)


def test_rows_that_the_rule_engine_has_no_room_for_are_not_called_seen(tmp_path: Path):
    ruleset = load_rules([write_rules(tmp_path)])
    detector = Detector(Engine(ruleset, ["deceit", "calm"], max_requests=1), "w", 2, 16)
    for req_id in "ab":
        detector.start(start_message(req_id, [1]), NO_TEXTS)
    detector.observe(*frame_message({"a": (0, [QUIET]), "b": (0, [QUIET])}, 1, "w"), 0.0)
    (finished,) = finish(detector, "b", num_scheduled=1)
    assert finished.coverage().unseen == {"rules_full": 1}


def test_a_failure_while_a_request_is_recorded_frees_its_slot(detector: Detector):
    for name in [f"r{i}" for i in range(1, 201)]:  # more than the row table starts with
        detector.start(start_message(name, [1]), NO_TEXTS)
        detector.observe(*frame_message({name: (0, [QUIET])}, 1, "w", tap_calls=[int(name[1:])]), 0)
        detector.end(end_message(name, 1), 0.0)
        requests = detector.finished(0.0)
        next(requests)
        requests.close()  # as when the store refuses the record
    assert len(detector._table._positions) == 64


def read_conversation(detector: Detector, tmp_path: Path, lost: slice, scores: list[float]):
    """One of Qwen 3: the prompt in one frame, then token by token, but for those that are lost."""
    prompt, _ = QWEN_3.ids(*QWEN_3.prompt)
    ids, phases = QWEN_3.ids(*QWEN_3.prompt, *QWEN_3.generated)
    texts = TokenTexts(QWEN_3.save(tmp_path / "model"), captured=False)
    detector.start(start_message("a", prompt.tolist()), texts)
    steps = [range(len(prompt)), *([i] for i in range(len(prompt), len(ids)))]
    found = []
    for number, step in enumerate(steps, start=1):
        if step[0] in range(len(ids))[lost]:
            continue
        frame, rows = frame_message({"a": (step[0], [scores] * len(step))}, number, "w")
        rows = FrameArrays(rows.scores, ids[list(step)], rows.positions)
        found += detector.observe(frame, rows, 0.0)
    return found, phases


def test_a_rule_on_the_answer_sees_neither_reasoning_nor_earlier_answers(
    detector: Detector, tmp_path: Path
):
    found, phases = read_conversation(detector, tmp_path, slice(0), LIE)
    assert found[0].match.position == phases.tolist().index(Phase.ANSWER)


def test_the_record_names_the_phase_of_each_token(detector: Detector, tmp_path: Path):
    _, phases = read_conversation(detector, tmp_path, slice(0), QUIET)
    (request,) = finish(detector, "a", num_scheduled=len(phases))
    record = request.record(("deceit", "calm"))
    assert list(record.phases) == phases[-16:].tolist()
    assert detector.num_phase_unsure == 0


def test_rows_after_a_gap_are_counted_until_their_phase_is_sure_again(
    detector: Detector, tmp_path: Path
):
    """What is lost are the end of the reasoning and what follows it."""
    prompt_len = len(QWEN_3.ids(*QWEN_3.prompt)[0])
    _, expected = QWEN_3.ids(*QWEN_3.prompt, *QWEN_3.generated)
    answer = expected.tolist().index(Phase.ANSWER)
    call = expected.tolist().index(Phase.TOOL_CALL)
    assert prompt_len < answer - 1 < answer + 2 < call
    _, phases = read_conversation(detector, tmp_path, slice(answer - 1, answer + 2), QUIET)
    finish(detector, "a", num_scheduled=len(phases) - 3)
    assert detector.num_phase_unsure == call - (answer + 2)


def test_a_request_whose_first_rows_are_lost_starts_unsure(detector: Detector, tmp_path: Path):
    texts = TokenTexts(QWEN_3.save(tmp_path / "model"), captured=False)
    detector.start(start_message("a", [1]), texts)
    observe(detector, 1, a=(4, [QUIET] * 3))
    finish(detector, "a", num_scheduled=3)
    assert detector.num_phase_unsure == 3


def test_rows_of_a_worker_that_sends_nothing_were_never_seen(detector: Detector):
    """And those of one that does have been lost on their way."""
    for is_silent, reason in ((False, "dropped_frame"), (True, "blind")):
        detector.workers.started(0)
        detector.workers.lost(0, "its taps did not run", is_silent)
        detector.start(start_message(reason, [1]), NO_TEXTS)
        detector.end(end_message(reason, 2), 0.0)
        (finished,) = detector.finished(GRACE_S)
        assert finished.coverage().unseen == {reason: 2}
