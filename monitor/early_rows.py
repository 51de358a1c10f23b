"""What comes before its request is announced: rows, which are from another process, and the ends of
requests that were announced to a monitor before this one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from saeguard.monitor.alerts import UnseenReason
from saeguard.monitor.messages import Frame, FrameArrays, RequestEnd


class Early(NamedTuple):
    """The rows of one request in one frame."""

    frame: Frame
    rows: FrameArrays
    fault: UnseenReason | None
    """Why the frame must not be believed."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    rows: list[Early]
    deadline_s: float


class EarlyRows:
    """Keeps it for a bounded time."""

    def __init__(self, grace_s: float) -> None:
        self._grace_s = grace_s
        self._waiting: dict[str, _Waiting] = {}  # the oldest first
        self._ends: dict[str, tuple[RequestEnd, float]] = {}  # and since when
        self.num_orphans = 0
        """Rows whose request was never announced."""

    def hold(self, req_id: str, early: Early, now_s: float) -> None:
        waiting = self._waiting.setdefault(req_id, _Waiting([], now_s + self._grace_s))
        waiting.rows.append(early)

    def take(self, req_id: str) -> list[Early]:
        """Those of a request that was announced, in the order in which they came."""
        waiting = self._waiting.pop(req_id, None)
        return waiting.rows if waiting else []

    def hold_end(self, end: RequestEnd, now_s: float) -> None:
        self._ends[end.req_id] = end, now_s

    def take_end(self, req_id: str) -> tuple[RequestEnd, float] | None:
        """And since when it has waited."""
        return self._ends.pop(req_id, None)

    def give_up(self, now_s: float) -> list[RequestEnd]:
        """Forget what has waited long enough; the ends among it."""
        for req_id, waiting in list(self._waiting.items()):
            if now_s < waiting.deadline_s:
                break
            self.num_orphans += sum(len(early.rows.positions) for early in waiting.rows)
            del self._waiting[req_id]
        late = [end for end, since_s in self._ends.values() if now_s >= since_s + self._grace_s]
        for end in late:
            del self._ends[end.req_id]
        return late
