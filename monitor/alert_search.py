"""The alerts that a reviewer looks through: filtered, searched, a page at a time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from saeguard.monitor.alerts import SEVERITIES, Alert, decode_alert
from saeguard.monitor.store_file import reading


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which alerts; an empty text admits all."""

    rule: str = ""
    severity: str = ""
    """At least this severe."""
    verdict: str = ""
    """The last word on it; `open` where there is none."""
    text: str = ""
    """Anywhere in it: its message, its request, its tenant, ..."""


@dataclass(frozen=True, slots=True)
class Page:
    alerts: list[Alert]
    num_found: int
    """On all pages."""


_LAST_WORD = """(SELECT verdict FROM verdicts
    WHERE verdicts.alert_id = alerts.id ORDER BY row DESC LIMIT 1)"""


def find(path: Path, wanted: Wanted, page: int, page_size: int) -> Page:
    """The newest first.

    Args:
        page: counted from 0.

    Raises:
        StoreError: the store cannot be read.
    """
    with reading(path) as db:
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_schema")}
        last_word = _LAST_WORD if "verdicts" in tables else "NULL"
        where, values = _conditions(wanted, last_word)
        (num_found,) = db.execute(f"SELECT count(*) FROM alerts {where}", values).fetchone()
        rows = db.execute(
            f"SELECT body FROM alerts {where} ORDER BY row DESC LIMIT ? OFFSET ?",
            (*values, page_size, page * page_size),
        )
        return Page([decode_alert(body) for (body,) in rows], num_found)


def rules_of(path: Path) -> list[str]:
    """Names of the rules that have alerts."""
    with reading(path) as db:
        return [name for (name,) in db.execute("SELECT DISTINCT rule FROM alerts ORDER BY rule")]


def num_of_rule(path: Path, rule: str, since_ns: int) -> int:
    """How many alerts it has raised since then."""
    query = "SELECT count(*) FROM alerts WHERE rule = ? AND time_ns >= ?"
    with reading(path) as db:
        return int(db.execute(query, (rule, since_ns)).fetchone()[0])


def neighbours(path: Path, alert_id: str) -> tuple[str | None, str | None]:
    """Ids of the next newer and the next older alert."""
    newer = "SELECT id FROM alerts WHERE row > (SELECT row FROM alerts WHERE id = ?) ORDER BY row"
    older = "SELECT id FROM alerts WHERE row < (SELECT row FROM alerts WHERE id = ?) ORDER BY row"
    with reading(path) as db:
        above = db.execute(f"{newer} LIMIT 1", (alert_id,)).fetchone()
        below = db.execute(f"{older} DESC LIMIT 1", (alert_id,)).fetchone()
    return above and above[0], below and below[0]


def _conditions(wanted: Wanted, last_word: str) -> tuple[str, list[str]]:
    conditions, values = [], []
    if wanted.rule:
        conditions.append("rule = ?")
        values.append(wanted.rule)
    if wanted.severity in SEVERITIES:
        severe = SEVERITIES[SEVERITIES.index(wanted.severity) :]
        conditions.append(f"severity IN ({', '.join('?' * len(severe))})")
        values += severe
    if wanted.verdict == "open":
        conditions.append(f"coalesce({last_word}, 'none') = 'none'")
    elif wanted.verdict:
        conditions.append(f"{last_word} = ?")
        values.append(wanted.verdict)
    if wanted.text:  # texts are in the record as they are
        conditions.append("instr(body, CAST(? AS BLOB))")
        values.append(wanted.text)
    return f"WHERE {' AND '.join(conditions)}" if conditions else "", values
