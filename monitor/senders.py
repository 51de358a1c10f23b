"""The senders of all destinations."""

from __future__ import annotations

import time
from collections.abc import Mapping

from saeguard.monitor.delivery import Destination, Sender
from saeguard.monitor.histograms import Distribution
from saeguard.monitor.store import Store


class Senders:
    """Each sends on a thread of its own."""

    def __init__(self, store: Store, destinations: Mapping[str, Destination]) -> None:
        self._senders = [Sender(store, each, name) for name, each in destinations.items()]

    def totals(self) -> dict[str, int]:
        """What waits and what was tried, for metrics."""
        return {key: n for sender in self._senders for key, n in sender.totals().items()}

    def distributions(self) -> dict[str, Distribution]:
        """How long delivery takes, for metrics."""
        return {key: d for sender in self._senders for key, d in sender.distributions().items()}

    def drain(self, timeout_s: float) -> None:
        """Deliver what is committed, within a time that they share: each may be away."""
        deadline_s = time.monotonic() + timeout_s
        for sender in self._senders:
            sender.hurry()
        for sender in self._senders:
            sender.drain(max(0.0, deadline_s - time.monotonic()))
