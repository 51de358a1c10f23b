"""The durable store of alerts: one SQLite file, one writer thread, commits in groups.

An alert counts as kept once its group is committed (WAL, `synchronous=FULL`). Handing one over does
not wait for the disk, except when the queue is full: then the caller commits it itself, for no
alert may be dropped silently.

Totals are counters named `metric/label/label...`, such as `tokens/unseen/dropped_frame`.
"""

from __future__ import annotations

import contextlib
import queue
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from itertools import chain
from pathlib import Path
from typing import Any, Self

import msgspec

from saeguard.monitor import retention
from saeguard.monitor.alerts import (
    SEVERITIES,
    Alert,
    RequestRecord,
    decode_alert,
    decode_request,
    encode,
)
from saeguard.monitor.finished import MAX_FINISHED
from saeguard.monitor.group_commits import GroupCommits, Record
from saeguard.monitor.histograms import Histogram
from saeguard.monitor.logging import logger
from saeguard.monitor.store_connection import ACKNOWLEDGE, News, Statement, StoreConnection
from saeguard.monitor.store_file import BODY, DamagedStoreError, StoreError, decoded, reading

DEFAULT_BYTES = 4 << 30
HELD_BYTES = 64 << 20
"""Of records of requests, while the disk takes nothing: the memory is for the alerts."""

_ADD_ALERT = """
INSERT INTO alerts (id, time_ns, rule, severity, req_id, body) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO NOTHING"""
_ADD_REQUEST = """
INSERT INTO requests (req_id, body) VALUES (?, ?)
ON CONFLICT (req_id) DO UPDATE SET body = excluded.body"""
_ADD_REQUEST_AGAIN = "INSERT OR IGNORE INTO requests (req_id, body) VALUES (?, ?)"
_TRIM_REQUESTS = f"""
DELETE FROM requests
WHERE row <= (SELECT max(row) FROM requests) - ? AND NOT {retention.IS_AWAITED}"""
_ADD_TOTAL = """
INSERT INTO totals (key, value) VALUES (?, ?)
ON CONFLICT (key) DO UPDATE SET value = value + excluded.value"""
_ADD_FINISHED = "INSERT OR REPLACE INTO finished (req_id) VALUES (?)"
_TRIM_FINISHED = "DELETE FROM finished WHERE row <= (SELECT max(row) FROM finished) - ?"
_QUARANTINE = "INSERT OR REPLACE INTO quarantine VALUES (?, ?, ?, ?)"
_CURSOR = "coalesce((SELECT row FROM cursors WHERE destination = ?), 0)"

log = logger(__name__)


class Store:
    """The writing side. Any thread may call it."""

    def __init__(
        self,
        path: Path | str,
        max_requests: int = 10_000,
        max_bytes: int = DEFAULT_BYTES,
        destinations: Iterable[str] = (),
    ) -> None:
        """
        Args:
            max_bytes: of the file; see `retention` for what goes first.
            destinations: those for which alerts are kept from the first moment on.

        Raises:
            StoreError: it cannot be written, or another monitor writes to it.
        """
        self.path = Path(path).resolve()  # one file must not have two writers by two names
        self._max_requests = max_requests
        self._connection = StoreConnection(self.path, max_bytes, destinations)
        self._commits = GroupCommits(self._connection)
        self._held_bytes = 0

    @property
    def evicted(self) -> Counter[str]:
        """What had to make room: requests, taken and undelivered alerts."""
        return self._commits.evicted

    @property
    def latency(self) -> Histogram:
        """From a forward pass to the alert's commit."""
        return self._commits.latency

    @property
    def num_waiting(self) -> int:
        """Records that are handed over and not yet taken up by the writer."""
        return self._commits.num_waiting

    @property
    def is_stalled(self) -> bool:
        """Whether nothing can be written at present."""
        return self._commits.stalled_s > 0

    def add_alert(self, alert: Alert) -> None:
        """
        Raises:
            StoreError: it can neither be written nor wait.
        """
        columns = (alert.id, alert.time_ns, alert.rule_name, alert.severity, alert.req_id)
        add = (_ADD_ALERT, (*columns, encode(alert)))
        forward_time_ns = None if alert.kind == "health" else alert.forward_time_ns
        try:
            self._commits.hand_over(Record([add], forward_time_ns))
        except StoreError:
            self._commits.refused["alerts"] += 1
            raise

    def add_request(self, record: RequestRecord, is_told_again: bool = False) -> None:
        """Keeps a request, in place of the oldest one where there are `max_requests`.

        Args:
            is_told_again: what a monitor before this one has kept of it is more.

        Raises:
            StoreError: it can neither be written nor wait.
        """
        body = encode(record)
        self._held_bytes = self._held_bytes + len(body) if self.is_stalled else 0
        add = (_ADD_REQUEST_AGAIN if is_told_again else _ADD_REQUEST, (record.req_id, body))
        try:
            if self._held_bytes > HELD_BYTES:
                raise StoreError(f"alert store {self.path}: too much waits to be written")
            self._commits.hand_over(Record([add, (_TRIM_REQUESTS, (self._max_requests,))]))
        except StoreError:
            self._commits.refused["requests"] += 1
            raise

    def add_totals(self, totals: Mapping[str, int], finished: Sequence[str] = ()) -> None:
        """Adds to the counters, together with the requests that are in them."""
        statements: list[Statement] = [(_ADD_TOTAL, item) for item in totals.items()]
        statements += [(_ADD_FINISHED, (req_id,)) for req_id in finished]
        self._commits.hand_over(Record([*statements, (_TRIM_FINISHED, (MAX_FINISHED,))]))

    def finished(self) -> list[str]:
        """Requests that are in the counters, as far as that is remembered."""
        return [req_id for (req_id,) in self._read("SELECT req_id FROM finished ORDER BY row")]

    def pending(self, destination: str, limit: int) -> list[tuple[int, Alert]]:
        """The oldest alerts that the destination has not acknowledged, with their rows.

        Raises:
            StoreError: it cannot be read at present.
        """
        query = f"SELECT row, {BODY} FROM alerts WHERE row > {_CURSOR} ORDER BY row LIMIT ?"
        while rows := self._read(query, (destination, limit)):
            alerts = []
            try:
                for row, body in rows:
                    alerts.append((row, decode_alert(body)))
            except msgspec.MsgspecError as error:
                if not alerts:  # else those before it are to be acknowledged first
                    self._pass_over(destination, row, error)
                    continue
            return alerts
        return []

    def num_pending(self, destination: str) -> int:
        """How many alerts the destination has not acknowledged, without reading them.

        One too many for each alert that was handed over twice, but never when it is 0.
        """
        query = f"SELECT max(row), max({_CURSOR}, min(row) - 1) FROM alerts"
        ((last, taken),) = self._read(query, (destination,))
        return int(last - taken) if last is not None else 0

    def oldest_pending_ns(self, destination: str) -> int | None:
        """When the next alert for the destination was raised; None if there is none."""
        query = f"SELECT time_ns FROM alerts WHERE row > {_CURSOR} ORDER BY row LIMIT 1"
        rows = self._read(query, (destination,))
        return int(rows[0][0]) if rows else None

    def totals(self) -> dict[str, int]:
        """Its size, and what was lost since the start, for metrics."""
        kinds = [field.name for field in fields(retention.Evicted)]
        found = {f"store/evicted/{k.removeprefix('num_')}": self.evicted[k] for k in kinds}
        found |= {f"store/refused/{k}": self._commits.refused[k] for k in ("alerts", "requests")}
        found["store/stalled_s"] = int(self._commits.stalled_s)
        with contextlib.suppress(StoreError), reading(self.path) as db:
            found["store/used_bytes"] = retention.used_bytes(db)
        return found

    def add_destination(self, name: str) -> None:
        """Alerts are kept for it until it has acknowledged them."""
        self._commits.count_evicted(self._connection.add_destination(name))

    def acknowledge(self, destination: str, row: int) -> None:
        """The destination has everything up to this row. Durable on return."""
        self._commits.commit([Record([(ACKNOWLEDGE, (destination, row))])])

    def quarantine(self, destination: str, row: int, reason: str) -> None:
        """Sets aside an alert that the destination will never take, and moves past it."""
        aside = (_QUARANTINE, (destination, row, time.time_ns(), reason))
        self._commits.commit([Record([aside, (ACKNOWLEDGE, (destination, row))])])

    def on_commit(self, listener: Callable[[], None]) -> None:
        """Calls `listener` after each commit, on the thread that made it."""
        self._commits.on_commit(listener)

    def take_news(self) -> list[News]:
        """What has happened to it since this was asked the last time."""
        news = []
        with contextlib.suppress(queue.Empty):
            while True:
                news.append(self._connection.news.get_nowait())
        return news

    def flush(self, timeout_s: float | None = None) -> bool:
        """Waits until what was handed over is committed; False when time ran out first."""
        return self._commits.flush(timeout_s)

    def close(self, timeout_s: float = 5.0) -> None:
        """Commits what was handed over, then closes the file.

        Args:
            timeout_s: how long a disk that does not take it is tried.

        Raises:
            StoreError: some records could not be written.
        """
        self._commits.close(timeout_s)
        self._connection.close()
        if num_lost := self._commits.num_lost:
            raise StoreError(f"alert store {self.path}: {num_lost} records could not be written")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self, query: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """All rows; where the file turns out to be damaged, of the one that takes its place."""
        epoch = self._connection.epoch
        try:
            with reading(self.path) as db:
                return db.execute(query, values).fetchall()
        except DamagedStoreError as error:
            self._connection.replace(error, epoch)
        with reading(self.path) as db:
            return db.execute(query, values).fetchall()

    def _pass_over(self, destination: str, row: int, error: Exception) -> None:
        """An alert that cannot be read must not hold up those behind it."""
        log.critical("alert_unreadable", destination=destination, row=row, error=str(error))
        self.quarantine(destination, row, f"its record in the store is damaged: {error}")


def list_alerts(
    path: Path | str,
    limit: int = 50,
    rule: str | None = None,
    severity: str | None = None,
    since_ns: int | None = None,
) -> list[Alert]:
    """The newest alerts first; `severity` means at least this severe."""
    severe = SEVERITIES[SEVERITIES.index(severity) :] if severity else ()
    filters: dict[str, Sequence[object]] = {
        "rule = ?": [rule] if rule else [],
        "time_ns >= ?": [since_ns] if since_ns else [],
        f"severity IN ({', '.join('?' * len(severe))})": severe,
    }
    where = [condition for condition, values in filters.items() if values]
    # With + the rows are looked for in an index that has all of it: where few alerts are wanted,
    # going through the table would read the bodies of all the others.
    rows_wanted = f"""SELECT row FROM alerts WHERE {" AND ".join(where) or "TRUE"}
        ORDER BY {"+" if where else ""}row DESC LIMIT ?"""
    query = f"SELECT {BODY} FROM alerts WHERE row IN ({rows_wanted}) ORDER BY row DESC"
    with reading(path) as db:
        found = db.execute(query, (*chain(*filters.values()), limit)).fetchall()
    return decoded(found, decode_alert)


def alert_ids(path: Path | str) -> list[str]:
    """Of all alerts, the oldest first."""
    with reading(path) as db:
        return [alert_id for (alert_id,) in db.execute("SELECT id FROM alerts ORDER BY row")]


def get_alert(path: Path | str, part: str) -> Alert:
    """The alert whose id begins or ends with `part`.

    Raises:
        StoreError: there is none, or more than one.
    """
    query = """SELECT body FROM alerts WHERE row IN (SELECT row FROM alerts
        WHERE substr(id, 1, length(:part)) = :part OR substr(id, -length(:part)) = :part LIMIT 2)"""
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
    return decoded(reversed(rows), decode_request)


def totals(path: Path | str) -> dict[str, int]:
    with reading(path) as db:
        return dict(db.execute("SELECT key, value FROM totals"))
