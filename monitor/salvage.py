"""What can still be read of a store whose file is damaged.

SQLite finds damage where it reads it, and a row lies on few of a file's pages: most rows can be
read one by one when all of them together cannot.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from saeguard.monitor.logging import logger

_PAGE_BYTES = 4096
_AT_ONCE = 256
_NEAR = 256
"""Behind the last row that could be read so many are tried one by one, as many as a damaged page
may have held; from then on each step is twice as long as the one before."""
_FAR = 60

_TABLES = ("alerts", "requests", "quarantine", "finished", "verdicts")
_TABLES_WITHOUT_ROWID = ("cursors", "totals")

log = logger(__name__)


def readable_rows(
    db: sqlite3.Connection,
    table: str,
    columns: str = "*",
    where: str = "TRUE",
    values: Mapping[str, Any] | None = None,
) -> Iterator[tuple[Any, ...]]:
    """The rows that can be read, each behind its number, in order.

    Raises:
        sqlite3.Error: not one can.
    """
    query = f"""SELECT rowid, {columns} FROM {table}
        WHERE rowid > :after AND {where} ORDER BY rowid LIMIT :limit"""
    after, limit, num_failures, has_any = 0, _AT_ONCE, 0, False
    while num_failures < _NEAR + _FAR:
        bounds = {"after": after, "limit": limit}
        try:
            rows = db.execute(query, {**(values or {}), **bounds}).fetchall()
        except sqlite3.Error as error:
            if limit > 1:
                limit = 1
                continue
            if not num_failures:
                log.warning("rows_unreadable", table=table, after=after, error=str(error))
            failure = error
            num_failures += 1
            after += 1 << max(0, num_failures - _NEAR)
            continue
        if not rows:
            return
        yield from rows
        after, limit, num_failures, has_any = rows[-1][0], _AT_ONCE, 0, True
    if not has_any:
        raise failure


def salvage(damaged: Path, new: sqlite3.Connection, last_row: int) -> int:
    """Copy what can be read of a damaged store into a new one, under the same numbers.

    Args:
        last_row: new alerts get higher numbers than this, and than any that is known.

    Returns:
        How many alerts could be read.

    Raises:
        sqlite3.Error, OSError: the new one cannot be written.
    """
    if not damaged.stat().st_size:  # then SQLite would drop its log, which may hold it all
        os.truncate(damaged, _PAGE_BYTES)
    with closing(sqlite3.connect(f"{damaged.absolute().as_uri()}?mode=ro", uri=True)) as old:
        definitions = dict(_leniently(_all(old, "SELECT name, sql FROM sqlite_schema")))
        if definition := definitions.get("verdicts"):  # not every store has them
            new.execute(definition)
        for table in _TABLES:
            if table in definitions:
                _insert(new, table, (row[1:] for row in _leniently(readable_rows(old, table))))
        for table in _TABLES_WITHOUT_ROWID:
            _insert(new, table, _leniently(_all(old, f"SELECT * FROM {table}")))
    (num_alerts,) = new.execute("SELECT count(*) FROM alerts").fetchone()
    known = "SELECT row FROM alerts UNION ALL SELECT row FROM cursors"
    new.execute("DELETE FROM sqlite_sequence WHERE name = 'alerts'")
    (highest,) = new.execute(f"SELECT max(row) FROM ({known})").fetchone()
    new.execute("INSERT INTO sqlite_sequence VALUES ('alerts', ?)", [max(last_row, highest or 0)])
    new.commit()
    return int(num_alerts)


def _all(db: sqlite3.Connection, query: str) -> Iterator[tuple[Any, ...]]:
    yield from db.execute(query)


def _leniently(rows: Iterator[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
    """Up to where they cannot be read any more."""
    try:
        yield from rows
    except sqlite3.Error as error:
        log.warning("rows_unreadable", error=str(error))


def _insert(new: sqlite3.Connection, table: str, rows: Iterator[tuple[Any, ...]]) -> None:
    for row in rows:
        new.execute(f"INSERT OR IGNORE INTO {table} VALUES ({','.join('?' * len(row))})", row)
