"""Rows that come before their request is announced: they are from another process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from saeguard.monitor.messages import Frame, FrameArrays


class Early(NamedTuple):
    """The rows of one request in one frame."""

    frame: Frame
    rows: FrameArrays
    fault: str | None
    """Why the frame must not be believed."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    rows: list[Early]
    deadline_s: float


class EarlyRows:
    """Keeps them for a bounded time."""

    def __init__(self, grace_s: float) -> None:
        self._grace_s = grace_s
        self._waiting: dict[str, _Waiting] = {}  # the oldest first
        self.num_orphans = 0
        """Rows whose request was never announced."""

    def hold(self, req_id: str, early: Early, now_s: float) -> None:
        waiting = self._waiting.setdefault(req_id, _Waiting([], now_s + self._grace_s))
        waiting.rows.append(early)

    def take(self, req_id: str) -> list[Early]:
        """Those of a request that was announced, in the order in which they came."""
        waiting = self._waiting.pop(req_id, None)
        return waiting.rows if waiting else []

    def give_up(self, now_s: float) -> None:
        """Forget those that have waited long enough."""
        for req_id, waiting in list(self._waiting.items()):
            if now_s < waiting.deadline_s:
                break
            self.num_orphans += sum(len(early.rows.positions) for early in waiting.rows)
            del self._waiting[req_id]
