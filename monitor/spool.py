"""How far each destination has got in the store, and what it has refused: a reader's view."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from saeguard.monitor.alerts import Alert, decode_alert
from saeguard.monitor.logging import logger
from saeguard.monitor.retention import used_bytes
from saeguard.monitor.salvage import readable_rows
from saeguard.monitor.store_file import BODY, reading, writing


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

_PENDING = "row > coalesce((SELECT row FROM cursors WHERE destination = :destination), 0)"
_QUARANTINED = "row IN (SELECT row FROM quarantine WHERE destination = :destination)"
_WHICH = {"all": "TRUE", "pending": _PENDING, "quarantined": _QUARANTINED}

log = logger(__name__)


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
    """Alerts of the store with their rows, the oldest first; of a damaged one, those that can be
    read.

    Args:
        which: `all`, or those which are `pending` or `quarantined` at the destination.
        since_ns: only those raised since then.

    Raises:
        StoreError: nothing of the store can be read.
    """
    where = f"time_ns >= :since_ns AND {_WHICH[which]}"
    values = {"destination": destination, "since_ns": since_ns}
    with reading(path) as db:
        for row, body in readable_rows(db, "alerts", BODY, where, values):
            try:
                yield row, decode_alert(body)
            except msgspec.MsgspecError as error:
                log.warning("alert_unreadable", row=row, error=str(error))


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
