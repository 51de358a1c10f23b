"""What leaves the store when it has grown to its bound: first what nobody waits for.

1. records of requests, the oldest first, without those whose alerts wait for a destination,
2. alerts that every destination has taken,
3. the remaining records of requests,
4. alerts that are still to be delivered: an alert lost, which has to be said aloud.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

_AT_ONCE = 16
_LOW = 0.9
"""Room is made down to this part of the bound, so that not every commit has to make some."""

OPEN = """
CREATE TEMP TABLE destinations (destination TEXT PRIMARY KEY);
CREATE TEMP VIEW taken AS
    SELECT coalesce(min(row), 9223372036854775807) AS row
    FROM cursors JOIN destinations USING (destination)"""
"""Of the writer's connection: which destinations there are now, and up to which row all of them
have taken the alerts. What was once a destination holds nothing back.
"""

_TAKEN = "row <= (SELECT row FROM taken)"
IS_AWAITED = """EXISTS (SELECT 1 FROM alerts
    WHERE alerts.req_id = requests.req_id AND alerts.row > (SELECT row FROM taken))"""
"""A request, by a destination."""

_STEPS = (
    ("requests", f"NOT {IS_AWAITED}", _LOW),
    ("alerts", _TAKEN, _LOW),
    ("requests", "TRUE", _LOW),
    ("alerts", f"NOT {_TAKEN}", 1.0),  # never more than have to
)


@dataclass(frozen=True, slots=True)
class Evicted:
    """How many records have made room."""

    num_requests: int = 0
    num_taken: int = 0
    """Alerts that every destination had."""
    num_undelivered: int = 0
    """Alerts that a destination will never get."""


def used_bytes(db: sqlite3.Connection) -> int:
    """Of the file, without the pages that are free again."""
    pages, free, size = (
        db.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)


def make_room(db: sqlite3.Connection, max_bytes: int) -> Evicted:
    """Delete what has to go, in the caller's transaction. The newest record of each kind stays.

    Raises:
        sqlite3.Error: the file cannot be written.
    """
    if used_bytes(db) <= max_bytes:
        return Evicted()
    counts = []
    for table, which, down_to in _STEPS:
        counts.append(0)
        while used_bytes(db) > down_to * max_bytes:
            num_deleted = db.execute(
                f"""DELETE FROM {table} WHERE row IN (
                    SELECT row FROM {table} WHERE {which}
                    AND row < (SELECT max(row) FROM {table}) ORDER BY row LIMIT {_AT_ONCE})"""
            ).rowcount
            counts[-1] += num_deleted
            if not num_deleted:
                break
    return Evicted(counts[0] + counts[2], counts[1], counts[3])
