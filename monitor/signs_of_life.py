"""Tells EngineCore that the monitor works: with `fail: closed` nothing is served without it."""

from __future__ import annotations

import uuid
from collections.abc import Callable

from saeguard.monitor.messages import Alive, Control

_EVERY_S = 0.5


class SignsOfLife:
    """To be called by the thread that decides: where it hangs, they end."""

    def __init__(self, send: Callable[[Control], None]) -> None:
        self._send = send
        self._instance = uuid.uuid4().hex
        self._next_s = float("-inf")

    def poll(self, now_s: float, blindness: str) -> None:
        """To be called often, with the reason why nothing can be seen if that is so."""
        if now_s >= self._next_s:
            self._send(Alive(self._instance, blindness))
            self._next_s = now_s + _EVERY_S
