"""How far each destination has got in the store, and what it has refused: a reader's view."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from saeguard.monitor.alerts import Alert, decode_alert
from saeguard.monitor.retention import used_bytes
from saeguard.monitor.store_file import reading, writing


@dataclass(frozen=True, slots=True)
class DestinationStatus:
    """Of one that has ever been configured."""

    name: str
    num_pending: int
    """Alerts in the store that it has not taken."""
    oldest_pending_ns: int | None
    """When the first of them was raised."""
    num_quarantined: int
    """Alerts that it has refused for good."""
    last_reason: str | None
    """Why the newest of those was refused."""


@dataclass(frozen=True, slots=True)
class SpoolStatus:
    num_alerts: int
    num_requests: int
    used_bytes: int
    destinations: list[DestinationStatus]


_DESTINATIONS = """
SELECT destination,
    (SELECT count(*) FROM alerts WHERE alerts.row > cursors.row),
    (SELECT time_ns FROM alerts WHERE alerts.row > cursors.row ORDER BY row LIMIT 1),
    (SELECT count(*) FROM quarantine WHERE quarantine.destination = cursors.destination),
    (SELECT reason FROM quarantine WHERE quarantine.destination = cursors.destination
        ORDER BY row DESC LIMIT 1)
FROM cursors ORDER BY destination"""

_PENDING = """
SELECT row, body FROM alerts
WHERE row > coalesce((SELECT row FROM cursors WHERE destination = :destination), 0)"""
_QUARANTINED = """
SELECT row, body FROM alerts
WHERE row IN (SELECT row FROM quarantine WHERE destination = :destination)"""
_ALL = "SELECT row, body FROM alerts WHERE TRUE"
QUERIES = {"all": _ALL, "pending": _PENDING, "quarantined": _QUARANTINED}


def status(path: Path | str) -> SpoolStatus:
    """
    Raises:
        StoreError: the store cannot be read.
    """
    with reading(path) as db:
        (num_alerts,) = db.execute("SELECT count(*) FROM alerts").fetchone()
        (num_requests,) = db.execute("SELECT count(*) FROM requests").fetchone()
        rows = db.execute(_DESTINATIONS).fetchall()
        size = used_bytes(db)
    return SpoolStatus(num_alerts, num_requests, size, [DestinationStatus(*row) for row in rows])


def select(
    path: Path | str, which: str = "all", destination: str = "", since_ns: int = 0
) -> Iterator[tuple[int, Alert]]:
    """Alerts of the store with their rows, the oldest first.

    Args:
        which: `all`, or those which are `pending` or `quarantined` at the destination.
        since_ns: only those raised since then.

    Raises:
        StoreError: the store cannot be read.
    """
    query = f"{QUERIES[which]} AND time_ns >= :since_ns ORDER BY row"
    with reading(path) as db:
        for row, body in db.execute(query, {"destination": destination, "since_ns": since_ns}):
            yield row, decode_alert(body)


def release(path: Path, destination: str, rows: list[int]) -> None:
    """Take alerts out of the quarantine: the destination has them now.

    Raises:
        StoreError: the store cannot be written.
    """
    with writing(path) as db:
        db.executemany(
            "DELETE FROM quarantine WHERE destination = ? AND row = ?",
            [(destination, row) for row in rows],
        )
