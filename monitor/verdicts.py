"""What people have said of alerts: never changed, only followed by something newer.

Whoever reviews writes here while the monitor writes alerts: another process, the same file.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from saeguard.monitor.store_file import reading, writing

Verdict = Literal["true_positive", "false_positive", "benign", "unsure", "acknowledged", "none"]
"""`benign`: what the rule looks for was there, and is harmless here. `acknowledged`: somebody is at
it. `none` takes back what was said before.
"""
VERDICTS: tuple[str, ...] = get_args(Verdict)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS verdicts (
    row INTEGER PRIMARY KEY AUTOINCREMENT,
    alert_id TEXT NOT NULL,
    verdict TEXT NOT NULL,
    comment TEXT NOT NULL,
    reviewer TEXT NOT NULL,
    time_ns INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS verdicts_by_alert ON verdicts (alert_id, row)"""
_COLUMNS = "alert_id, verdict, comment, reviewer, time_ns"
_AT_ONCE = 500  # names in one statement


@dataclass(frozen=True, slots=True)
class Said:
    """One verdict."""

    alert_id: str
    verdict: str
    comment: str
    reviewer: str
    time_ns: int


def add_verdict(path: Path, alert_id: str, verdict: Verdict, comment: str, reviewer: str) -> None:
    """Durable on return.

    Raises:
        StoreError: the store cannot be written.
    """
    with writing(path) as db:
        db.executescript(_SCHEMA)
        db.execute(
            f"INSERT INTO verdicts ({_COLUMNS}) VALUES (?, ?, ?, ?, ?)",
            (alert_id, verdict, comment, reviewer, time.time_ns()),
        )


def history(path: Path, alert_id: str) -> list[Said]:
    """All that was said of an alert, the newest first."""
    query = f"SELECT {_COLUMNS} FROM verdicts WHERE alert_id = ? ORDER BY row DESC"
    with reading(path) as db:
        if not _has_any(db):
            return []
        return [Said(*row) for row in db.execute(query, (alert_id,))]


def newest(path: Path, alert_ids: Iterable[str]) -> dict[str, Said]:
    """The last word on each of these alerts; `none` is as if nothing had been said."""
    found: dict[str, Said] = {}
    ids = list(alert_ids)
    with reading(path) as db:
        if not _has_any(db):
            return {}
        for start in range(0, len(ids), _AT_ONCE):
            for said in _newest(db, ids[start : start + _AT_ONCE]):
                found[said.alert_id] = said
    return {name: said for name, said in found.items() if said.verdict != "none"}


def _newest(db: sqlite3.Connection, ids: Sequence[str]) -> list[Said]:
    marks = ", ".join("?" * len(ids))
    query = f"SELECT {_COLUMNS} FROM verdicts WHERE alert_id IN ({marks}) ORDER BY row"
    return [Said(*row) for row in db.execute(query, ids)]


def _has_any(db: sqlite3.Connection) -> bool:
    query = "SELECT count(*) FROM sqlite_schema WHERE name = 'verdicts'"
    return bool(db.execute(query).fetchone()[0])
