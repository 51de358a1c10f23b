"""The senders of all destinations."""

from __future__ import annotations

import time
from collections.abc import Sequence

from saeguard.monitor.config import Destination
from saeguard.monitor.delivery import Sender, load_destination
from saeguard.monitor.store import Store


class Senders:
    """Each sends on a thread of its own."""

    def __init__(self, store: Store, wanted: Sequence[Destination]) -> None:
        """
        Raises:
            ConfigError: there is no such destination, or it does not take its options.
        """
        loaded = [load_destination(each.kind, each.options) for each in wanted]
        self._senders = [Sender(store, destination) for destination in loaded]

    def totals(self) -> dict[str, int]:
        """What waits and what was tried, for metrics."""
        return {key: n for sender in self._senders for key, n in sender.totals().items()}

    def drain(self, timeout_s: float) -> None:
        """Deliver what is committed, within a time that they share: each may be away."""
        deadline_s = time.monotonic() + timeout_s
        for sender in self._senders:
            sender.hurry()
        for sender in self._senders:
            sender.drain(max(0.0, deadline_s - time.monotonic()))
