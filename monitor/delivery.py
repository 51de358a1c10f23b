"""Delivery of alerts from the store to destinations: in order, at least once, never given up.

Each destination has its own thread and its own cursor in the store, and the cursor moves only after
the destination has taken a batch. An alert that it refuses for good is searched for by halving the
batch, quarantined, and passed over, so that it cannot block the ones behind it.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from typing import Protocol

from saeguard.monitor.alerts import Alert
from saeguard.monitor.errors import SaeguardError
from saeguard.monitor.histograms import TO_DESTINATION_S, Distribution, Histogram
from saeguard.monitor.logging import logger
from saeguard.monitor.store import Store
from saeguard.monitor.store_file import StoreError

BATCH_SIZE = 64
OUTCOMES = ("taken", "deferred", "refused")
"""Of a batch: it is tried again later, or searched for what the destination does not want."""

log = logger(__name__)


class DeliveryError(SaeguardError):
    """A destination did not take a batch; `retriable` where it may take the same batch later."""

    def __init__(self, message: str, *, retriable: bool) -> None:
        super().__init__(message)
        self.retriable = retriable


class Destination(Protocol):
    """Where alerts go. It may see an alert twice, with the same id."""

    @property
    def name(self) -> str: ...

    def deliver(self, alerts: Sequence[Alert]) -> None:
        """Returns once all are taken.

        Raises:
            DeliveryError: some were not.
        """

    def close(self) -> None: ...


class Sender:
    """Sends what the store holds to one destination, on a thread of its own.

    Args:
        name: under which the store knows the destination, where it is not the destination's own.
    """

    def __init__(
        self,
        store: Store,
        destination: Destination,
        name: str = "",
        first_delay_s: float = 0.5,
        max_delay_s: float = 30.0,
    ) -> None:
        self.attempts: Counter[str] = Counter()
        """By outcome."""
        self.delivered = 0
        self.latency = Histogram(TO_DESTINATION_S)
        """From the time of an alert until it is taken."""
        self._store = store
        self._destination = destination
        self._name = name or destination.name
        self._first_delay_s = first_delay_s
        self._max_delay_s = max_delay_s
        self._delay_s = first_delay_s
        self._batch_size = BATCH_SIZE
        self._taken_row = 0
        """Up to where the destination has everything, and the store does not know it yet."""
        self._wake, self._draining, self._stopped = (threading.Event() for _ in range(3))
        store.add_destination(self._name)
        store.on_commit(self._wake.set)
        self._thread = threading.Thread(
            target=self._run, name=f"saeguard-to-{self._name}", daemon=True
        )
        self._thread.start()

    @property
    def pending(self) -> int:
        """Alerts in the store that the destination has not taken yet."""
        return self._store.num_pending(self._name)

    def totals(self) -> dict[str, int]:
        """What waits and what was tried, for metrics."""
        name = self._name
        found = {f"delivery/attempts/{o}/{name}": self.attempts[o] for o in OUTCOMES}
        with contextlib.suppress(StoreError):  # which the store says itself
            oldest_ns = self._store.oldest_pending_ns(name)
            age_s = 0 if oldest_ns is None else max(0, time.time_ns() - oldest_ns) // 1_000_000_000
            found[f"delivery/oldest_age_s/{name}"] = age_s
            found[f"delivery/pending/{name}"] = self.pending
        return found

    def distributions(self) -> dict[str, Distribution]:
        """How long it takes, for metrics."""
        return {f"delivery/latency_s/{self._name}": self.latency.read()}

    def hurry(self) -> None:
        """Nothing more is to come: go on until everything is delivered, without long pauses."""
        self._draining.set()
        self._wake.set()

    def drain(self, timeout_s: float) -> bool:
        """Delivers what is committed, for at most `timeout_s`, then ends the thread.

        Returns:
            Whether everything was delivered. The rest waits in the store for the next start.
        """
        self.hurry()
        self._thread.join(timeout_s)
        self._stopped.set()
        self._destination.close()
        with contextlib.suppress(StoreError):
            return self.pending == 0
        return False

    def _run(self) -> None:
        while not self._stopped.is_set():
            self._wake.clear()  # before reading: a commit after the reading wakes us again
            try:
                is_idle = not self._send_some()
            except Exception as error:  # whatever it is, this thread has to go on
                self._back_off(error)
                continue
            if is_idle and self._draining.is_set():
                return
            if is_idle:
                self._wake.wait()

    def _send_some(self) -> bool:
        """Tries the next batch; False when nothing waits."""
        self._acknowledge()
        rows = self._store.pending(self._name, self._batch_size)
        if rows:
            self._send(rows)
        return bool(rows)

    def _send(self, rows: Sequence[tuple[int, Alert]]) -> None:
        try:
            self._destination.deliver([alert for _, alert in rows])
        except DeliveryError as error:
            if error.retriable:
                self.attempts["deferred"] += 1
                self._halve(rows)  # it may be too slow for as many, or take no message as large
                self._back_off(error)
            else:
                self._refused(rows, error)
        except Exception as error:  # a destination's own fault must not end its thread
            self._refused(rows, error)
        else:
            self._taken(rows)

    def _taken(self, rows: Sequence[tuple[int, Alert]]) -> None:
        self.attempts["taken"] += 1
        self._delay_s = self._first_delay_s
        now_ns = time.time_ns()
        for _, alert in rows:
            self.latency.add((now_ns - alert.time_ns) / 1e9)
        self.delivered += len(rows)
        self._batch_size = min(2 * self._batch_size, BATCH_SIZE)
        self._taken_row = rows[-1][0]
        self._acknowledge()

    def _acknowledge(self) -> None:
        """Where the disk is full that may be later: until then nothing is sent a second time."""
        if self._taken_row:
            self._store.acknowledge(self._name, self._taken_row)
            self._taken_row = 0

    def _refused(self, rows: Sequence[tuple[int, Alert]], error: Exception) -> None:
        """Halves the next batch, down to the one alert that is refused."""
        self.attempts["refused"] += 1
        self._halve(rows)
        if len(rows) > 1:
            return
        row, alert = rows[0]
        self._store.quarantine(self._name, row, str(error))
        log.error(
            "alert_quarantined",
            destination=self._name,
            alert_id=alert.id,
            error=str(error),
        )

    def _halve(self, rows: Sequence[tuple[int, Alert]]) -> None:
        self._batch_size = max(1, len(rows) // 2)

    def _back_off(self, error: Exception) -> None:
        """Waits, each time twice as long; while draining, only as long as the first time."""
        log.warning(
            "delivery_deferred",
            destination=self._name,
            delay_s=self._delay_s,
            error=str(error),
        )
        if self._draining.wait(self._delay_s * random.uniform(0.5, 1)):
            self._stopped.wait(self._first_delay_s)
        self._delay_s = min(2 * self._delay_s, self._max_delay_s)
