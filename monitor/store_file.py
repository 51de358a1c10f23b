"""The store's file: its schema, how it is opened, and what is said when it cannot be."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, NoReturn

import msgspec

from saeguard.monitor.errors import SaeguardError

APPLICATION_ID = 0x5AE6_0A1E
"""Marks the file as ours, in SQLite's header."""
SCHEMA_VERSION = 1

_BUSY_S = 10.0
_CLAIM_S = 15.0
"""How long a monitor that is ending is waited for: it may have alerts to deliver."""

_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS alerts (
    row INTEGER PRIMARY KEY AUTOINCREMENT,  -- never reused: the cursors point at it
    id TEXT NOT NULL UNIQUE,
    time_ns INTEGER NOT NULL,
    rule TEXT NOT NULL,
    severity TEXT NOT NULL,
    req_id TEXT NOT NULL,
    body BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS alerts_by_request ON alerts (req_id);
CREATE TABLE IF NOT EXISTS requests (
    row INTEGER PRIMARY KEY AUTOINCREMENT,
    req_id TEXT NOT NULL UNIQUE,
    body BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS totals (
    key TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS cursors (  -- what each destination has acknowledged
    destination TEXT PRIMARY KEY,
    row INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS quarantine (  -- what each destination has refused
    destination TEXT NOT NULL,
    row INTEGER NOT NULL,
    time_ns INTEGER NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (destination, row)
);
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
"""


class StoreError(SaeguardError):
    """The alert store cannot be opened, read or written."""


@contextmanager
def reading(path: Path | str) -> Iterator[sqlite3.Connection]:
    """A read-only connection, which never holds up the writer."""
    path = Path(path)
    if not path.exists():
        raise StoreError(f"there is no alert store at {path}", "give its path with --store")
    try:
        uri = f"{path.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True)) as db:
            _check_owner(path, db)
            yield db
    except (sqlite3.Error, msgspec.DecodeError) as error:
        fail(path, error)


@contextmanager
def writing(path: Path) -> Iterator[sqlite3.Connection]:
    """A transaction of another process than the monitor: a command's, or the review page's."""
    try:
        with closing(sqlite3.connect(path, timeout=_BUSY_S)) as db, db:
            yield db
    except sqlite3.Error as error:
        fail(path, error)


def open_for_writing(path: Path) -> sqlite3.Connection:
    """The store at `path`, made where there is none."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            _create(path)
        db = sqlite3.connect(path, check_same_thread=False)
        if db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
            _check_owner(path, db)
        _set_up(db)
    except (OSError, sqlite3.Error) as error:
        fail(path, error)
    return db


def claim(path: Path, timeout_s: float = _CLAIM_S) -> IO[str]:
    """A file that holds the right to write to the store until it is closed, or we are gone.

    Raises:
        StoreError: another monitor has it, or the directory cannot be written.
    """
    deadline_s = time.monotonic() + timeout_s
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = open(path.with_name(f".{path.name}.lock"), "a+", opener=_private)  # noqa: SIM115
    except OSError as error:
        fail(path, error)
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except OSError:
            if time.monotonic() >= deadline_s:
                file.seek(0)
                owner = file.read().strip() or "unknown"
                file.close()
                raise StoreError(
                    f"alert store {path}: another monitor writes to it (process {owner})",
                    "give each monitor a store of its own",
                ) from None
            time.sleep(0.1)
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, mode=0o600)


def _create(path: Path) -> None:
    """Whole from its first moment: nobody reads a half-made store, and being killed leaves none."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    new.touch(mode=0o600)
    try:
        with closing(sqlite3.connect(new)) as db:
            _set_up(db)
        with contextlib.suppress(FileExistsError):  # another monitor was quicker
            os.link(new, path)
    finally:
        new.unlink()


def _set_up(db: sqlite3.Connection) -> None:
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")


def _check_owner(path: Path, db: sqlite3.Connection) -> None:
    (owner,) = db.execute("PRAGMA application_id").fetchone()
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if owner != APPLICATION_ID:
        fail(path, "it belongs to another program")
    if version != SCHEMA_VERSION:
        fail(path, f"its schema is version {version}, this saeguard reads {SCHEMA_VERSION}")


def fail(path: Path, reason: object) -> NoReturn:
    remedy = "check the path, its permissions and the space on its disk"
    raise StoreError(f"alert store {path}: {reason}", remedy)
