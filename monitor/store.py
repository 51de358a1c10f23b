"""The durable store of alerts: one SQLite file, one writer thread, commits in groups.

An alert counts as kept once its group is committed (WAL, `synchronous=FULL`). Handing one over does
not wait for the disk, except when the queue is full: then the caller commits it itself, for no
alert may be dropped silently.

Totals are counters named `metric/label/label...`, such as `tokens/unseen/dropped_frame`.
"""

from __future__ import annotations

import contextlib
import queue
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NamedTuple, Self

from saeguard.monitor import retention
from saeguard.monitor.alerts import (
    SEVERITIES,
    Alert,
    RequestRecord,
    decode_alert,
    decode_request,
    encode,
)
from saeguard.monitor.histograms import TO_RECORD_S, Histogram
from saeguard.monitor.logging import logger
from saeguard.monitor.store_file import StoreError, claim, fail, open_for_writing, reading

GROUP_WAIT_S = 0.01
"""How long the first record of a group waits for company: about one commit."""
GROUP_SIZE = 512
QUEUE_SIZE = 8192
RETRY_S = 0.5
DEFAULT_BYTES = 4 << 30

_ADD_ALERT = """
INSERT INTO alerts (id, time_ns, rule, severity, req_id, body) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO NOTHING"""
_ADD_REQUEST = """
INSERT INTO requests (req_id, body) VALUES (?, ?)
ON CONFLICT (req_id) DO UPDATE SET body = excluded.body"""
_TRIM_REQUESTS = f"""
DELETE FROM requests
WHERE row <= (SELECT max(row) FROM requests) - ? AND NOT {retention.IS_AWAITED}"""
_ADD_TOTAL = """
INSERT INTO totals (key, value) VALUES (?, ?)
ON CONFLICT (key) DO UPDATE SET value = value + excluded.value"""
_ACKNOWLEDGE = """
INSERT INTO cursors (destination, row) VALUES (?, ?)
ON CONFLICT (destination) DO UPDATE SET row = max(row, excluded.row)"""
_QUARANTINE = "INSERT OR REPLACE INTO quarantine VALUES (?, ?, ?, ?)"
_CURSOR = "coalesce((SELECT row FROM cursors WHERE destination = ?), 0)"

Statement = tuple[str, tuple[Any, ...]]


class _Record(NamedTuple):
    """What is handed over together, and committed together."""

    statements: list[Statement]
    forward_time_ns: int | None = None
    """Of an alert about a request: when its forward pass was."""


log = logger(__name__)


class Store:
    """The writing side. Any thread may call it."""

    def __init__(
        self, path: Path | str, max_requests: int = 10_000, max_bytes: int = DEFAULT_BYTES
    ) -> None:
        """
        Args:
            max_bytes: of the file; see `retention` for what goes first.

        Raises:
            StoreError: it cannot be written, or another monitor writes to it.
        """
        self.path = Path(path)
        self.evicted: Counter[str] = Counter()
        """What had to make room: requests, taken and undelivered alerts."""
        self.latency = Histogram(TO_RECORD_S)
        """From a forward pass to the alert's commit."""
        self._max_requests = max_requests
        self._max_bytes = max_bytes
        self._claim = claim(self.path)
        self._db = open_for_writing(self.path)
        self._db.executescript(retention.OPEN)
        self._db_lock = threading.Lock()
        self._queue: queue.Queue[_Record | threading.Event] = queue.Queue(QUEUE_SIZE)
        self._closing = threading.Event()
        self._listeners: list[Callable[[], None]] = []
        self._num_lost = 0
        self._give_up_s = float("inf")
        self._writer = threading.Thread(target=self._write, name="saeguard-store", daemon=True)
        self._writer.start()

    def add_alert(self, alert: Alert) -> None:
        columns = (alert.id, alert.time_ns, alert.rule_name, alert.severity, alert.req_id)
        forward_time_ns = None if alert.kind == "health" else alert.forward_time_ns
        add = (_ADD_ALERT, (*columns, encode(alert)))
        self._hand_over(_Record([add], forward_time_ns))

    def add_request(self, record: RequestRecord) -> None:
        """Keeps a request, in place of the oldest one where there are `max_requests`."""
        add = (_ADD_REQUEST, (record.req_id, encode(record)))
        self._hand_over(_Record([add, (_TRIM_REQUESTS, (self._max_requests,))]))

    def add_totals(self, totals: Mapping[str, int]) -> None:
        """Adds to the counters."""
        self._hand_over(_Record([(_ADD_TOTAL, item) for item in totals.items()]))

    def pending(self, destination: str, limit: int) -> list[tuple[int, Alert]]:
        """The oldest alerts that the destination has not acknowledged, with their rows."""
        query = f"SELECT row, body FROM alerts WHERE row > {_CURSOR} ORDER BY row LIMIT ?"
        with reading(self.path) as db:
            rows = db.execute(query, (destination, limit)).fetchall()
        return [(row, decode_alert(body)) for row, body in rows]

    def num_pending(self, destination: str) -> int:
        """How many alerts the destination has not acknowledged, without reading them.

        One too many for each alert that was handed over twice, but never when it is 0.
        """
        query = f"SELECT max(row), max({_CURSOR}, min(row) - 1) FROM alerts"
        with reading(self.path) as db:
            last, taken = db.execute(query, (destination,)).fetchone()
        return int(last - taken) if last is not None else 0

    @property
    def num_waiting(self) -> int:
        """Records that are handed over and not yet taken up by the writer."""
        return self._queue.qsize()

    def oldest_pending_ns(self, destination: str) -> int | None:
        """When the next alert for the destination was raised; None if there is none."""
        query = f"SELECT time_ns FROM alerts WHERE row > {_CURSOR} ORDER BY row LIMIT 1"
        with reading(self.path) as db:
            row = db.execute(query, (destination,)).fetchone()
        return int(row[0]) if row else None

    def totals(self) -> dict[str, int]:
        """What had to make room since the start, and the size, for metrics."""
        with reading(self.path) as db:
            size = retention.used_bytes(db)
        kinds = [field.name for field in fields(retention.Evicted)]
        evicted = {f"store/evicted/{k.removeprefix('num_')}": self.evicted[k] for k in kinds}
        return {"store/used_bytes": size, **evicted}

    def add_destination(self, name: str) -> None:
        """Alerts are kept for it until it has acknowledged them."""
        known = ("INSERT OR IGNORE INTO destinations VALUES (?)", (name,))
        self._commit([(_ACKNOWLEDGE, (name, 0)), known])

    def acknowledge(self, destination: str, row: int) -> None:
        """The destination has everything up to this row. Durable on return."""
        self._commit([(_ACKNOWLEDGE, (destination, row))])

    def quarantine(self, destination: str, row: int, reason: str) -> None:
        """Sets aside an alert that the destination will never take, and moves past it."""
        aside = (_QUARANTINE, (destination, row, time.time_ns(), reason))
        self._commit([aside, (_ACKNOWLEDGE, (destination, row))])

    def on_commit(self, listener: Callable[[], None]) -> None:
        """Calls `listener` after each commit, on the thread that made it."""
        self._listeners.append(listener)

    def flush(self, timeout_s: float | None = None) -> bool:
        """Waits until what was handed over is committed; False when time ran out first."""
        done = threading.Event()
        try:
            self._queue.put(done, timeout=timeout_s)
        except queue.Full:
            return False
        return done.wait(timeout_s)

    def close(self, timeout_s: float = 5.0) -> None:
        """Commits what was handed over, then closes the file.

        Args:
            timeout_s: how long a disk that does not take it is tried.

        Raises:
            StoreError: some records could not be written.
        """
        if self._closing.is_set():
            return
        self._give_up_s = time.monotonic() + timeout_s
        self._closing.set()
        with contextlib.suppress(queue.Full):  # then the writer is awake
            self._queue.put_nowait(threading.Event())
        self._writer.join()
        with self._db_lock:
            self._db.close()
        self._claim.close()
        if self._num_lost:
            fail(self.path, f"{self._num_lost} records could not be written")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _hand_over(self, record: _Record) -> None:
        if self._closing.is_set():
            raise StoreError(f"alert store {self.path}: it is closed")
        try:
            self._queue.put_nowait(record)
        except queue.Full:
            self._keep([record])

    def _write(self) -> None:
        while not (self._closing.is_set() and self._queue.empty()):
            group = self._next_group()
            if records := [item for item in group if isinstance(item, _Record)]:
                self._insist(records)
            for done in group:
                if isinstance(done, threading.Event):
                    done.set()

    def _next_group(self) -> list[_Record | threading.Event]:
        group = [self._queue.get()]
        deadline = time.monotonic() + GROUP_WAIT_S
        while len(group) < GROUP_SIZE and (left_s := deadline - time.monotonic()) > 0:
            try:
                group.append(self._queue.get(timeout=left_s))
            except queue.Empty:
                break
        return group

    def _insist(self, records: list[_Record]) -> None:
        """Tries until the group is written: a full disk may be emptied. Only closing ends it: once
        a group is given up, those behind it are, too.
        """
        while not self._num_lost:
            try:
                return self._keep(records)
            except StoreError as error:
                log.error("store_write_failed", error=str(error))
            if time.monotonic() >= self._give_up_s:
                break
            time.sleep(RETRY_S)
        self._num_lost += len(records)
        return None

    def _keep(self, records: list[_Record]) -> None:
        self._commit([statement for record in records for statement in record.statements])
        now_ns = time.time_ns()
        for record in records:
            if record.forward_time_ns is not None:
                self.latency.add((now_ns - record.forward_time_ns) / 1e9)

    def _commit(self, statements: list[Statement]) -> None:
        try:
            with self._db_lock, self._db:
                for sql, values in statements:
                    self._db.execute(sql, values)
                evicted = retention.make_room(self._db, self._max_bytes)
        except sqlite3.Error as error:
            fail(self.path, error)
        self.evicted.update(asdict(evicted))
        for listener in self._listeners:
            listener()


def list_alerts(
    path: Path | str,
    limit: int = 50,
    rule: str | None = None,
    severity: str | None = None,
    since_ns: int | None = None,
) -> list[Alert]:
    """The newest alerts first; `severity` means at least this severe."""
    severe = SEVERITIES[SEVERITIES.index(severity) if severity else 0 :]
    marks = ", ".join("?" * len(severe))
    query = f"""SELECT body FROM alerts
        WHERE severity IN ({marks}) AND time_ns >= ? AND (? IS NULL OR rule = ?)
        ORDER BY row DESC LIMIT ?"""
    with reading(path) as db:
        rows = db.execute(query, (*severe, since_ns or 0, rule, rule, limit)).fetchall()
    return [decode_alert(body) for (body,) in rows]


def get_alert(path: Path | str, part: str) -> Alert:
    """The alert whose id begins or ends with `part`.

    Raises:
        StoreError: there is none, or more than one.
    """
    query = """SELECT body FROM alerts
        WHERE substr(id, 1, length(:part)) = :part OR substr(id, -length(:part)) = :part LIMIT 2"""
    with reading(path) as db:
        rows = db.execute(query, {"part": part.lower()}).fetchall()
    if not rows:
        raise StoreError(f"no alert {part!r} in {path}", "see `saeguard alerts list`")
    if len(rows) > 1:
        raise StoreError(f"more than one alert matches {part!r}", "give more of its id")
    return decode_alert(rows[0][0])


def get_request(path: Path | str, req_id: str) -> RequestRecord | None:
    """None while the request runs, and once it has made room for newer ones."""
    with reading(path) as db:
        row = db.execute("SELECT body FROM requests WHERE req_id = ?", (req_id,)).fetchone()
    return decode_request(row[0]) if row else None


def list_requests(
    path: Path | str, limit: int = 1000, rule: str | None = None
) -> list[RequestRecord]:
    """The newest requests, in the order in which they were kept; of `rule`, those it alerted on."""
    query = """SELECT body FROM requests
        WHERE ? IS NULL OR req_id IN (SELECT req_id FROM alerts WHERE rule = ?)
        ORDER BY row DESC LIMIT ?"""
    with reading(path) as db:
        rows = db.execute(query, (rule, rule, limit)).fetchall()
    return [decode_request(body) for (body,) in reversed(rows)]


def totals(path: Path | str) -> dict[str, int]:
    with reading(path) as db:
        return dict(db.execute("SELECT key, value FROM totals"))
