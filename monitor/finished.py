"""Which requests were entered lately: the engine tells some of them again to a monitor that comes
after another one, which may have stored them or not.
"""

from __future__ import annotations

from collections.abc import Iterable

from saeguard.rules.scope import shortened

MAX_FINISHED = 8192


class Finished:
    """The newest of them, and which of those are not stored yet."""

    def __init__(self, stored: Iterable[str]) -> None:
        self._ids = dict.fromkeys(stored)
        self._unsaved: list[str] = []

    def __contains__(self, req_id: str) -> bool:
        return shortened(req_id) in self._ids

    def add(self, req_id: str) -> None:
        name = shortened(req_id)
        self._ids[name] = None
        self._unsaved.append(name)
        if len(self._ids) > 2 * MAX_FINISHED:
            self._ids = dict.fromkeys(list(self._ids)[-MAX_FINISHED:])

    def take_unsaved(self) -> list[str]:
        """Those that were added since this was asked the last time."""
        unsaved, self._unsaved = self._unsaved[-MAX_FINISHED:], []
        return unsaved
