"""Changes the watchlist of running workers: all of them, of all data-parallel engines, or none.

Two rounds. First every worker is asked to load the file and to test it; only when all are ready
they are told to go. Each question is repeated until it is answered, so that it does not matter
which side was started, or started anew, in between. After a refusal they are asked again, ever more
rarely: what a worker lacked, such as memory, it may have later.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from saeguard.monitor.messages import Control, Swap, SwapStatus

_REPEAT_S = 0.5
_MIN_RETRY_S = 10.0
_MAX_RETRY_S = 600.0


@dataclass(frozen=True, slots=True)
class SwapResult:
    """What became of an offer."""

    watchlist: str
    """Its digest."""
    refusal: str = ""
    """Why at least one worker cannot use it: all go on as before. Empty: from their next step on
    all use it.
    """


class Swapper:
    """Not thread-safe: one thread offers, hears and polls."""

    def __init__(self, send: Callable[[Control], None]) -> None:
        self._send = send
        self._offered = ""
        self._answers: dict[int, SwapStatus] = {}  # by worker, as `_started` and `_expected`
        self._started: set[int] = set()
        self._expected: set[int] = set()
        self._is_settled = True
        self._result: SwapResult | None = None
        self._next_s = float("-inf")
        self._retry_s = float("inf")
        self._backoff_s = _MIN_RETRY_S

    def offer(self, watchlist: str) -> None:
        """Ask for the watchlist of this digest; an offer before it is given up."""
        self._offered = watchlist
        self._result = None
        self._backoff_s = _MIN_RETRY_S
        self._ask_again()

    def hear(self, status: SwapStatus) -> None:
        """A worker has answered."""
        if status.watchlist == self._offered and status != self._answers.get(status.rank):
            self._answers[status.rank] = status
            self._next_s = float("-inf")  # whatever follows from it follows at once
            engine = status.rank - status.rank % status.num_workers
            workers = range(engine, engine + status.num_workers)
            if not self._expected.issuperset(workers):  # an engine that we did not know of
                self._expected.update(workers)
                self._is_settled = False

    def worker_started(self, worker: int) -> None:
        """It has loaded the file as it is now: what was refused may fit it."""
        if worker in self._started:  # the server was restarted, maybe with fewer of them
            self._started.clear()
            self._expected.clear()
        self._started.add(worker)
        self._expected.add(worker)
        if self._offered:
            self._backoff_s = _MIN_RETRY_S
            self._ask_again()

    def poll(self, now_s: float) -> SwapResult | None:
        """To be called often. The outcome of an offer, once; again only when it has changed."""
        if now_s >= self._retry_s:
            self._ask_again()
        if self._is_settled:
            return None
        result = self._outcome()
        if result is None:
            if now_s >= self._next_s:
                self._send(Swap(self._offered, go=self._all("ready", "done")))
                self._next_s = now_s + _REPEAT_S
            return None
        self._is_settled = True
        if result.refusal:
            self._retry_s = now_s + self._backoff_s
            self._backoff_s = min(2 * self._backoff_s, _MAX_RETRY_S)
        is_news, self._result = result != self._result, result
        return result if is_news else None

    def _outcome(self) -> SwapResult | None:
        for rank, answer in self._answers.items():
            if answer.state == "refused":
                return SwapResult(self._offered, f"worker {rank}: {answer.reason}")
        return SwapResult(self._offered) if self._all("done") else None

    def _all(self, *states: str) -> bool:
        answers = self._answers
        return (
            bool(answers)
            and answers.keys() >= self._expected
            and all(answer.state in states for answer in answers.values())
        )

    def _ask_again(self) -> None:
        self._answers.clear()
        self._is_settled = False
        self._next_s, self._retry_s = float("-inf"), float("inf")
