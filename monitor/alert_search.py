"""The alerts that a reviewer looks through: filtered, searched, a page at a time."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path

from saeguard.monitor.alerts import SEVERITIES, Alert, decode_alert
from saeguard.monitor.store_file import BODY, decoded, reading
from saeguard.monitor.verdicts import JUDGEMENTS, STANDING, has_verdicts


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which alerts; an empty text admits all."""

    rule: str = ""
    severity: str = ""
    """At least this severe."""
    verdict: str = ""
    """The last word on it; `open` where there is none, `disputed` where reviewers disagree."""
    text: str = ""
    """Anywhere in it: its message, its request, its tenant, ..."""


@dataclass(frozen=True, slots=True)
class Page:
    alerts: list[Alert]
    num_found: int
    """On all pages."""


_LAST_WORD = f"""(SELECT verdict FROM {STANDING}
    WHERE alert_id = alerts.id ORDER BY row DESC LIMIT 1)"""
_NUM_OPINIONS = f"""(SELECT count(DISTINCT verdict) FROM {STANDING}
    WHERE alert_id = alerts.id AND verdict IN ({", ".join(map(repr, JUDGEMENTS))}))"""


def find(path: Path, wanted: Wanted, page: int, page_size: int) -> Page:
    """The newest first.

    Args:
        page: counted from 0.

    Raises:
        StoreError: the store cannot be read.
    """
    with reading(path) as db:
        where, values = _where(db, wanted)
        (num_found,) = db.execute(f"SELECT count(*) FROM alerts WHERE {where}", values).fetchone()
        rows = db.execute(
            f"SELECT {BODY} FROM alerts WHERE {where} ORDER BY row DESC LIMIT ? OFFSET ?",
            (*values, page_size, page * page_size),
        )
        return Page(decoded(rows, decode_alert), num_found)


def find_one(path: Path, alert_id: str) -> Alert | None:
    """By its whole id."""
    with reading(path) as db:
        row = db.execute("SELECT body FROM alerts WHERE id = ?", (alert_id,)).fetchone()
    return decode_alert(row[0]) if row else None


def rules_of(path: Path) -> list[str]:
    """Names of the rules that have alerts."""
    with reading(path) as db:
        return [name for (name,) in db.execute("SELECT DISTINCT rule FROM alerts ORDER BY rule")]


def neighbours(path: Path, alert_id: str, wanted: Wanted) -> tuple[str | None, str | None]:
    """Ids of the next newer and the next older alert among those that are wanted."""
    own_row = "(SELECT row FROM alerts WHERE id = ?)"
    with reading(path) as db:
        where, values = _where(db, wanted)
        found = [
            db.execute(
                f"SELECT id FROM alerts WHERE row {beyond} {own_row} AND {where} "
                f"ORDER BY row {order} LIMIT 1",
                (alert_id, *values),
            ).fetchone()
            for beyond, order in ((">", "ASC"), ("<", "DESC"))
        ]
    newer, older = (row and row[0] for row in found)
    return newer, older


def _where(db: sqlite3.Connection, wanted: Wanted) -> tuple[str, list[str]]:
    """A condition on `alerts`, and the values of its marks."""
    has_any = has_verdicts(db)
    conditions, values = ["TRUE"], []
    if wanted.rule:
        conditions.append("rule = ?")
        values.append(wanted.rule)
    if wanted.severity in SEVERITIES:
        severe = SEVERITIES[SEVERITIES.index(wanted.severity) :]
        conditions.append(f"severity IN ({', '.join('?' * len(severe))})")
        values += severe
    if wanted.verdict == "open":
        conditions += [f"{_LAST_WORD} IS NULL"] * has_any
    elif wanted.verdict and not has_any:
        conditions.append("FALSE")
    elif wanted.verdict == "disputed":
        conditions.append(f"{_NUM_OPINIONS} > 1")
    elif wanted.verdict:
        conditions.append(f"{_LAST_WORD} = ?")
        values.append(wanted.verdict)
    if wanted.text:  # texts are in the record as they are
        conditions.append("instr(body, CAST(? AS BLOB))")
        values.append(wanted.text)
    return " AND ".join(conditions), values
