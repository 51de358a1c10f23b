"""A watchlist is changed on every worker or on none, whatever gets lost on the way."""

from __future__ import annotations

import pytest

from saeguard.monitor.messages import Control, Swap, SwapStatus
from saeguard.monitor.swap import Swapper, SwapResult

NEW, NEWER = "b" * 64, "c" * 64


class Conversation:
    """A swapper, what it has said, and a clock."""

    def __init__(self) -> None:
        self.said: list[Control] = []
        self.swapper = Swapper(self.said.append)
        self.now_s = 0.0

    def answer(self, rank: int, state: str, watchlist: str = NEW, reason: str = "") -> None:
        self.swapper.hear(SwapStatus(rank, 2, watchlist, state, reason))

    def turn(self, elapsed_s: float = 0.0) -> SwapResult | None:
        self.now_s += elapsed_s
        return self.swapper.poll(self.now_s)


@pytest.fixture
def talk() -> Conversation:
    talk = Conversation()
    talk.swapper.offer(NEW)
    assert talk.turn() is None
    return talk


def test_nobody_is_told_to_go_before_everybody_is_ready(talk: Conversation):
    talk.answer(0, "ready")
    assert talk.turn() is None
    assert talk.said == [Swap(NEW, go=False)] * 2
    talk.answer(1, "ready")
    assert talk.turn() is None
    assert talk.said[-1] == Swap(NEW, go=True)
    talk.answer(0, "done")
    assert talk.turn() is None
    talk.answer(1, "done")
    assert talk.turn() == SwapResult(NEW)
    assert talk.turn(10.0) is None, "an outcome is told once"


def test_one_refusal_leaves_everybody_as_he_was(talk: Conversation):
    talk.answer(0, "ready")
    talk.answer(1, "refused", reason="too many features")
    assert talk.turn() == SwapResult(NEW, "worker 1: too many features")
    assert not any(message.go for message in talk.said)


def test_what_was_not_heard_is_said_again_but_not_incessantly(talk: Conversation):
    talk.answer(0, "ready")
    talk.turn()
    num_said = len(talk.said)
    talk.answer(0, "ready")
    assert talk.turn(0.1) is None
    assert len(talk.said) == num_said
    assert talk.turn(0.5) is None
    assert len(talk.said) == num_said + 1


def test_a_new_offer_replaces_one_that_waits(talk: Conversation):
    talk.answer(0, "ready")
    talk.swapper.offer(NEWER)
    talk.answer(0, "done")
    talk.answer(1, "done")  # both speak of the watchlist before
    assert talk.turn() is None
    assert talk.said[-1] == Swap(NEWER, go=False)


def test_a_monitor_that_was_restarted_finishes_what_it_had_begun(talk: Conversation):
    talk.answer(0, "done")
    talk.answer(1, "ready")
    talk.turn()
    assert talk.said[-1] == Swap(NEW, go=True)


def test_a_worker_that_starts_anew_is_asked_again(talk: Conversation):
    """Its buffers are as large as the file that it found needs them."""
    talk.answer(0, "refused", reason="too many features")
    assert talk.turn() == SwapResult(NEW, "worker 0: too many features")
    talk.swapper.worker_started(0)
    assert talk.turn() is None
    talk.answer(0, "done")
    talk.answer(1, "done")
    assert talk.turn() == SwapResult(NEW)


def test_the_engines_of_a_server_change_together(talk: Conversation):
    """Workers 0 and 1 are of one engine, 2 and 3 of another."""
    for worker in (0, 2):
        talk.swapper.worker_started(worker)
    for worker in (0, 1):
        talk.answer(worker, "ready")
    talk.turn()
    assert talk.said[-1] == Swap(NEW, go=False)
    talk.answer(2, "ready")
    talk.answer(3, "refused", reason="no memory left")
    assert talk.turn() == SwapResult(NEW, "worker 3: no memory left")
    assert not any(message.go for message in talk.said)


def test_an_engine_of_which_a_new_monitor_did_not_know_is_brought_along(talk: Conversation):
    for worker in (0, 1):
        talk.answer(worker, "done")
    assert talk.turn() == SwapResult(NEW)
    talk.answer(2, "ready")
    assert talk.turn(1.0) is None
    talk.answer(3, "ready")
    talk.turn(1.0)
    assert talk.said[-1] == Swap(NEW, go=True)


def test_a_server_that_was_restarted_with_fewer_engines_is_not_waited_for_in_vain(
    talk: Conversation,
):
    for worker in range(4):
        talk.swapper.worker_started(worker)
    for worker in range(2):
        talk.swapper.worker_started(worker)
        talk.answer(worker, "done")
    assert talk.turn() is None, "the last to start has been asked again"
    for worker in range(2):
        talk.answer(worker, "done")
    assert talk.turn() == SwapResult(NEW)


def test_an_outcome_that_is_known_is_not_told_again(talk: Conversation):
    for _ in range(2):
        talk.answer(0, "done")
        talk.answer(1, "done")
        results = talk.turn()
        talk.swapper.worker_started(0)
    assert results is None


def test_the_same_file_offered_twice_is_answered_twice(talk: Conversation):
    for _ in range(2):
        talk.answer(0, "refused", reason="no")
        assert talk.turn() == SwapResult(NEW, "worker 0: no")
        talk.swapper.offer(NEW)


def test_a_refused_watchlist_is_offered_again_ever_more_rarely(talk: Conversation):
    waits = []
    for _ in range(8):
        talk.answer(0, "refused", reason="no memory left")
        talk.turn()
        num_said, asked_s = len(talk.said), talk.now_s
        while len(talk.said) == num_said:
            assert talk.turn(1.0) is None, "what is known is not told again"
        waits.append(talk.now_s - asked_s)
    assert waits == [10, 20, 40, 80, 160, 320, 600, 600]
    for rank in (0, 1):
        talk.answer(rank, "done")
    assert talk.turn() == SwapResult(NEW)
    assert talk.turn(1000.0) is None
    assert len(talk.said) == num_said + 1
