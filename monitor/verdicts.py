"""What people have said of alerts: never changed, only followed by something newer.

The last word of each reviewer *stands* until it is taken back; a reviewer without a name is one of
them. Whoever reviews writes here while the monitor writes alerts: another process, the same file.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Literal, get_args

from saeguard.monitor.store_file import reading, writing

Verdict = Literal["true_positive", "false_positive", "benign", "unsure", "acknowledged", "none"]
"""`benign`: what the rule looks for was there, and is harmless here. `acknowledged`: somebody is at
it. `none` takes back what was said before.
"""
VERDICTS: tuple[str, ...] = get_args(Verdict)
JUDGEMENTS = ("true_positive", "false_positive", "benign", "unsure")
"""Verdicts that say what an alert was; on these reviewers agree or not."""

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
STANDING = """(SELECT * FROM verdicts AS said WHERE verdict != 'none' AND NOT EXISTS (
    SELECT 1 FROM verdicts AS later WHERE later.alert_id = said.alert_id
    AND later.reviewer = said.reviewer AND later.row > said.row))"""
"""For queries: the rows of `verdicts` that stand."""
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


def add_missing(path: Path, said: Iterable[Said]) -> int:
    """Adds, in this order, those that were said elsewhere and are not here yet; how many.

    Raises:
        StoreError: the store cannot be written.
    """
    query = f"""INSERT INTO verdicts ({_COLUMNS}) SELECT ?1, ?2, ?3, ?4, ?5
        WHERE (?1, ?2, ?3, ?4, ?5) NOT IN (SELECT {_COLUMNS} FROM verdicts WHERE alert_id = ?1)"""
    with writing(path) as db:
        db.executescript(_SCHEMA)
        return sum(db.execute(query, astuple(each)).rowcount for each in said)


def history(path: Path, alert_id: str) -> list[Said]:
    """All that was said of an alert, the newest first."""
    query = f"SELECT {_COLUMNS} FROM verdicts WHERE alert_id = ? ORDER BY row DESC"
    with reading(path) as db:
        if not has_verdicts(db):
            return []
        return [Said(*row) for row in db.execute(query, (alert_id,))]


def standing(path: Path, alert_ids: Iterable[str]) -> dict[str, list[Said]]:
    """What stands of each of these alerts of which anything does, the newest first."""
    found: dict[str, list[Said]] = {}
    ids = list(alert_ids)
    with reading(path) as db:
        if not has_verdicts(db):
            return {}
        for start in range(0, len(ids), _AT_ONCE):
            for said in _standing(db, ids[start : start + _AT_ONCE]):
                found.setdefault(said.alert_id, []).append(said)
    return found


def _standing(db: sqlite3.Connection, ids: Sequence[str]) -> list[Said]:
    marks = ", ".join("?" * len(ids))
    query = f"SELECT {_COLUMNS} FROM {STANDING} WHERE alert_id IN ({marks}) ORDER BY row DESC"
    return [Said(*row) for row in db.execute(query, ids)]


def newest(path: Path, alert_ids: Iterable[str]) -> dict[str, Said]:
    """The last word that stands on each of these alerts."""
    return {name: said[0] for name, said in standing(path, alert_ids).items()}


def judgements(said: Iterable[Said]) -> list[Said]:
    """Those that say what the alert was."""
    return [each for each in said if each.verdict in JUDGEMENTS]


def opinions(said: Iterable[Said]) -> set[bool]:
    """Whether the alert was right: one answer, two where reviewers disagree, or none."""
    decided = [each.verdict for each in judgements(said) if each.verdict != "unsure"]
    return {verdict == "true_positive" for verdict in decided}


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of the alerts that several reviewers have judged."""

    num_alerts: int
    num_agreed: int
    """On which all of them say the same."""


def agreement(path: Path) -> Agreement:
    """On all alerts of the store.

    Raises:
        StoreError: the store cannot be read.
    """
    marks = ", ".join("?" * len(JUDGEMENTS))
    query = f"""SELECT count(*), coalesce(sum(num_kinds = 1), 0) FROM (
        SELECT count(DISTINCT verdict) AS num_kinds FROM {STANDING}
        WHERE verdict IN ({marks}) GROUP BY alert_id HAVING count(*) > 1)"""
    with reading(path) as db:
        if not has_verdicts(db):
            return Agreement(0, 0)
        return Agreement(*db.execute(query, JUDGEMENTS).fetchone())


def has_verdicts(db: sqlite3.Connection) -> bool:
    """Whether anybody has ever said anything."""
    query = "SELECT count(*) FROM sqlite_schema WHERE name = 'verdicts'"
    return bool(db.execute(query).fetchone()[0])
