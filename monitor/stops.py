"""Asks EngineCore to end requests whose rules say `action: stop`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from saeguard.monitor.alerts import Alert
from saeguard.monitor.messages import Control, Stop

_REPEAT_S = 0.5
_MAX_ASKS = 20
"""An engine that has not ended the request by then is gone, or will not."""


@dataclass(slots=True)
class _Asked:
    message: Stop
    next_s: float
    num_asks: int = 1


class Stops:
    """Asks at once, and again until the request has ended: what is said while EngineCore is not
    connected is lost. Not thread-safe.
    """

    def __init__(self, send: Callable[[Control], None]) -> None:
        self._send = send
        self._asked: dict[str, _Asked] = {}  # by req_id

    def ask(self, req_id: str, alert: Alert, now_s: float) -> None:
        """End a request because of an alert. Where several rules want that, it ends by the first.

        Args:
            req_id: as the engine has it, however long.
        """
        if req_id not in self._asked:
            message = Stop(req_id, alert.rule_name, alert.severity, alert.id)
            self._asked[req_id] = _Asked(message, now_s + _REPEAT_S)
            self._send(message)

    def ended(self, req_id: str) -> None:
        """The request has ended, by this or anything else."""
        self._asked.pop(req_id, None)

    def poll(self, now_s: float) -> None:
        """To be called often."""
        for req_id, asked in list(self._asked.items()):
            if now_s < asked.next_s:
                continue
            if asked.num_asks >= _MAX_ASKS:
                del self._asked[req_id]
                continue
            self._send(asked.message)
            asked.num_asks += 1
            asked.next_s = now_s + _REPEAT_S
