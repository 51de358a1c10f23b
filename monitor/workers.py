"""What is known of the workers: whether their taps run, what they dropped, who is lost."""

from __future__ import annotations

from saeguard.monitor.messages import Frame


class Workers:
    """By their numbers. Of whom nothing was heard, nothing is known."""

    def __init__(self) -> None:
        self.reasons: dict[int, str] = {}
        """Worker -> why it cannot be relied on."""
        self._silent: set[int] = set()  # those that send nothing any more
        self._tap_calls: dict[int, list[int]] = {}
        self._alive: dict[int, bool] = {}
        self._num_dropped: dict[int, int] = {}

    @property
    def are_all_alive(self) -> bool:
        """Whether there are any, and every one's taps ran in its last step."""
        return bool(self._alive) and all(self._alive.values()) and not self.reasons

    @property
    def is_any_silent(self) -> bool:
        """Then rows that do not come were never seen, not lost on their way."""
        return bool(self._silent)

    @property
    def num_dropped_frames(self) -> int:
        return sum(self._num_dropped.values())

    def started(self, worker: int) -> None:
        """It is new, or starts anew: its counters count from nothing again."""
        self._tap_calls.pop(worker, None)
        self.reasons.pop(worker, None)
        self._silent.discard(worker)
        self._alive[worker] = True

    def lost(self, worker: int, reason: str, is_silent: bool) -> bool:
        """It cannot be relied on any more, and maybe sends nothing; whether that is news."""
        is_news = worker not in self.reasons
        self.reasons[worker] = reason
        if is_silent:
            self._silent.add(worker)
        return is_news

    def sent(self, frame: Frame) -> None:
        """A frame came, or a part of one."""
        self._num_dropped[frame.worker] = frame.dropped_frames

    def do_taps_run(self, frame: Frame) -> bool:
        """Whether all of them ran since the frame before: else its scores are those of before."""
        before = self._tap_calls.get(frame.worker)
        self._tap_calls[frame.worker] = frame.tap_calls
        alive = before is None or all(n > b for n, b in zip(frame.tap_calls, before, strict=False))
        self._alive[frame.worker] = alive
        return alive

    def is_alive(self, worker: int) -> bool:
        """By its last frame."""
        return self._alive.get(worker, True)
