"""Writes records to the store on a thread of its own, commits them in groups, and tries again where
the disk does not take them.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import NamedTuple

from saeguard.monitor.histograms import TO_RECORD_S, Histogram
from saeguard.monitor.logging import logger
from saeguard.monitor.retention import Evicted
from saeguard.monitor.store_connection import News, Statement, StoreConnection
from saeguard.monitor.store_file import StoreError

PAUSE_S = 0.01
"""Between two commits at least, unless there is an alert to keep: what comes meanwhile is committed
together.
"""
GROUP_SIZE = 512
QUEUE_SIZE = 8192
RETRY_S = 0.5
_LOOK_S = 1.0
"""How often the file is looked for when there is nothing to write."""

log = logger(__name__)


class Record(NamedTuple):
    """What is handed over together, and committed together."""

    statements: Sequence[Statement]
    forward_time_ns: int | None = None
    """Of an alert about a request: when its forward pass was."""


class GroupCommits:
    """Any thread may hand over records. Each is written, unless `close` runs out of time."""

    def __init__(self, connection: StoreConnection) -> None:
        self.evicted: Counter[str] = Counter()
        """What had to make room: requests, taken and undelivered alerts."""
        self.refused: Counter[str] = Counter()
        """What found no place to wait in while nothing could be written: alerts and requests."""
        self.latency = Histogram(TO_RECORD_S)
        """From a forward pass to the alert's commit."""
        self.num_lost = 0
        """Records that could not be written in the end."""
        self._connection = connection
        self._queue: queue.Queue[Record | threading.Event] = queue.Queue(QUEUE_SIZE)
        self._listeners: list[Callable[[], None]] = []
        self._closing = threading.Event()
        self._counting = threading.Lock()
        self._give_up_s = float("inf")
        self._stalled_s: float | None = None
        self._last_commit_s = float("-inf")
        self._thread = threading.Thread(target=self._run, name="saeguard-store", daemon=True)
        self._thread.start()

    @property
    def num_waiting(self) -> int:
        """Records that are handed over and not yet taken up by the thread."""
        return self._queue.qsize()

    @property
    def stalled_s(self) -> float:
        """For how long nothing could be written; 0 while all is well."""
        since_s = self._stalled_s
        return 0.0 if since_s is None else time.monotonic() - since_s

    def on_commit(self, listener: Callable[[], None]) -> None:
        """Calls `listener` after each commit, on the thread that made it."""
        self._listeners.append(listener)

    def hand_over(self, record: Record) -> None:
        """Does not wait for the disk, except when the queue is full: then the caller commits.

        Raises:
            StoreError: the queue is full, and the disk does not take it; or it is closed.
        """
        if self._closing.is_set():
            raise StoreError(f"alert store {self._connection.path}: it is closed")
        try:
            self._queue.put_nowait(record)
        except queue.Full:
            self.commit([record])

    def commit(self, records: Sequence[Record]) -> None:
        """Durable on return.

        Raises:
            StoreError: they cannot be written.
        """
        statements = [statement for record in records for statement in record.statements]
        self.count_evicted(self._connection.execute(statements))
        now_ns = time.time_ns()
        for record in records:
            if record.forward_time_ns is not None:
                self.latency.add((now_ns - record.forward_time_ns) / 1e9)
        for listener in self._listeners if records else ():
            listener()

    def count_evicted(self, evicted: Evicted) -> None:
        """Any thread's: what is not counted is not told."""
        with self._counting:
            self.evicted.update(asdict(evicted))

    def flush(self, timeout_s: float | None = None) -> bool:
        """Waits until what was handed over is committed; False when time ran out first."""
        done = threading.Event()
        try:
            self._queue.put(done, timeout=timeout_s)
        except queue.Full:
            return False
        return done.wait(timeout_s)

    def close(self, timeout_s: float) -> None:
        """Commits what was handed over; gives up on a disk that does not take it in that time."""
        if self._closing.is_set():
            return
        self._give_up_s = time.monotonic() + timeout_s
        self._closing.set()
        with contextlib.suppress(queue.Full):  # then the thread is awake
            self._queue.put_nowait(threading.Event())
        self._thread.join()

    def _run(self) -> None:
        while not (self._closing.is_set() and self._queue.empty()):
            group = self._next_group()
            records = [item for item in group if isinstance(item, Record)]
            self._insist(records)
            self._last_commit_s = time.monotonic()
            for done in group:
                if isinstance(done, threading.Event):
                    done.set()

    def _next_group(self) -> list[Record | threading.Event]:
        """Empty where nothing has come for a while."""
        group: list[Record | threading.Event] = []
        timeout_s, until_s = _LOOK_S, self._last_commit_s + PAUSE_S
        with contextlib.suppress(queue.Empty):
            while len(group) < GROUP_SIZE:
                item = self._queue.get(timeout=timeout_s)
                group.append(item)
                if not isinstance(item, Record) or item.forward_time_ns is not None:
                    until_s = 0.0  # an alert, or somebody waits
                timeout_s = max(0.0, until_s - time.monotonic())
        return group

    def _insist(self, records: list[Record]) -> None:
        """Tries until the group is written: a full disk may be emptied. Only closing ends it: once
        a group is given up, those behind it are, too.
        """
        while not self.num_lost:
            try:
                self.commit(records)
                return self._went_on()
            except Exception as error:  # whatever it is, this thread has to go on
                self._stopped(error)
            if time.monotonic() >= self._give_up_s:
                break
            time.sleep(RETRY_S)
        self.num_lost += len(records)
        return None

    def _stopped(self, error: Exception) -> None:
        if self._stalled_s is None:
            self._stalled_s = time.monotonic()
            self._error, self._refused_before = str(error), self.refused.copy()
            log.critical("store_stalled", error=str(error))

    def _went_on(self) -> None:
        if self._stalled_s is None:
            return
        stalled_s, self._stalled_s = self.stalled_s, None
        log.warning("store_written_again", after_s=round(stalled_s, 1))
        message = f"For {stalled_s:.0f} s nothing could be written: {self._error}"
        if refused := self.refused - self._refused_before:
            lost = " and ".join(f"{count} {kind}" for kind, count in sorted(refused.items()))
            message += f". {lost} found no room to wait for it, and are lost"
        title = "The alert store could not be written"
        self._connection.news.put(News("saeguard.store_stalled", title, message))
