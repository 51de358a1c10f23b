"""The store's file: its schema, how it is opened, and what is said when it cannot be."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NoReturn, TypeVar

import msgspec

from saeguard.monitor.errors import SaeguardError
from saeguard.monitor.logging import logger

APPLICATION_ID = 0x5AE6_0A1E
"""Marks the file as ours, in SQLite's header."""
SCHEMA_VERSION = 1

_MAGIC = b"SQLite format 3\0"
_REMEDY = "check the path, its permissions and the space on its disk"
_REMEDY_FOREIGN = "give another path, or move the file away"
_REMEDY_DAMAGED = "saeguard spool export --store FILE prints the alerts that can still be read"

_BUSY_S = 10.0

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
CREATE INDEX IF NOT EXISTS alerts_by_rule ON alerts (rule, time_ns, severity);
CREATE TABLE IF NOT EXISTS requests (
    row INTEGER PRIMARY KEY AUTOINCREMENT,
    req_id TEXT NOT NULL UNIQUE,
    body BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS totals (
    key TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS finished (  -- the newest requests that are in the totals
    row INTEGER PRIMARY KEY AUTOINCREMENT,
    req_id TEXT NOT NULL UNIQUE
);
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

BODY = "coalesce(CAST(body AS BLOB), x'')"
"""Of an alert, for a query: bytes, whatever a damaged record says that it is."""

Fill = Callable[[sqlite3.Connection], None]
T = TypeVar("T")

log = logger(__name__)


class StoreError(SaeguardError):
    """The alert store cannot be opened, read or written."""


class DamagedStoreError(StoreError):
    """What its file holds is not what SQLite has written there."""


@contextmanager
def reading(path: Path | str) -> Iterator[sqlite3.Connection]:
    """A read-only connection, which never holds up the writer."""
    path = Path(path)
    try:
        if not path.exists():
            raise StoreError(f"there is no alert store at {path}", "give its path with --store")
    except OSError as error:
        fail(path, error)
    try:
        uri = f"{path.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True)) as db:
            _check_owner(path, db)
            yield db
    except (sqlite3.Error, msgspec.DecodeError) as error:
        fail(path, error)


def decoded(rows: Iterable[tuple[bytes]], decode: Callable[[bytes], T]) -> list[T]:
    """The records in these rows. One that is damaged is left out, which the log says."""
    records = []
    for (body,) in rows:
        try:
            records.append(decode(body))
        except msgspec.MsgspecError as error:
            log.warning("record_unreadable", error=str(error))
    return records


@contextmanager
def writing(path: Path) -> Iterator[sqlite3.Connection]:
    """A transaction of another process than the monitor: a command's, or the review page's."""
    try:
        uri = f"{path.absolute().as_uri()}?mode=rw"  # one that is not there must not be made here
        with closing(sqlite3.connect(uri, uri=True, timeout=_BUSY_S)) as db, db:
            yield db
    except sqlite3.Error as error:
        fail(path, error)


def open_for_writing(path: Path) -> sqlite3.Connection:
    """The store at `path`, made where there is none.

    Raises:
        StoreError: it cannot be had, or belongs to somebody else.
        DamagedStoreError: it was one, and is damaged.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            if _has_log(path):  # of one that is gone, and SQLite would take it for the new one's
                set_aside(path, "damaged")
            make(path).rename(path)
        else:
            _check_start(path)
        db = sqlite3.connect(path, check_same_thread=False)
        try:
            if db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
                _check_owner(path, db)
            _set_up(db)
        except BaseException:
            db.close()
            raise
    except (OSError, sqlite3.Error) as error:
        fail(path, error)
    return db


def identity(path: Path) -> tuple[int, int] | None:
    """Of the file that is there now; None: there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def make(path: Path, fill: Fill | None = None) -> Path:
    """A whole store under another name, to be renamed: nobody reads a half-made one.

    Args:
        fill: what it has from the first moment.

    Raises:
        StoreError: it cannot be written.
    """
    new = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        remove(new)  # of a monitor that was killed
        new.touch(mode=0o600)
        with closing(sqlite3.connect(new)) as db:
            _set_up(db)
            if fill is not None:
                fill(db)
    except (OSError, sqlite3.Error) as error:
        with contextlib.suppress(OSError):
            remove(new)
        fail(path, error)
    return new


def take_place(new: Path, path: Path) -> None:
    """Put a whole store where a damaged one is, or was; `finish` goes on where this was ended.

    Raises:
        StoreError: that is not possible.
    """
    try:
        new.rename(_ready(path))
        remove(path)
        _ready(path).rename(path)
    except OSError as error:
        fail(path, error)


def finish(path: Path) -> bool:
    """Whether a monitor was killed while it put a new store there; then it is there now.

    Raises:
        StoreError: it cannot be put there.
    """
    if path.exists() or not _ready(path).exists():
        return False
    try:
        remove(path)  # its log, that is
        _ready(path).rename(path)
    except OSError as error:
        fail(path, error)
    return True


def remove(path: Path) -> None:
    """A store by that name. Its log goes last: without one it might pass for whole."""
    for suffix in ("", "-shm", "-wal"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


def set_aside(path: Path, why: str) -> Path:
    """Rename a store with its write-ahead log, and return its new name.

    Raises:
        StoreError: that is not possible.
    """
    with contextlib.suppress(OSError):
        Path(f"{path}-shm").unlink()
    return _to_aside(os.rename, path, why)


def keep_aside(path: Path, why: str) -> Path:
    """Give a store with its write-ahead log a second name, and return that.

    Raises:
        StoreError: that is not possible.
    """
    return _to_aside(os.link, path, why)


def _to_aside(move: Callable[[str, str], None], path: Path, why: str) -> Path:
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    names = (f"{path.name}.{why}-{stamp}{more}" for more in ("", *(f".{i}" for i in range(1, 100))))
    aside = next(
        each
        for each in map(path.with_name, names)
        if not each.exists() and not Path(f"{each}-wal").exists()
    )
    try:
        # The log first: alone, a log is harmless, but a new store would take it for its own.
        for suffix in ("-wal", ""):
            with contextlib.suppress(FileNotFoundError):
                move(f"{path}{suffix}", f"{aside}{suffix}")
    except OSError as error:
        fail(path, error)
    return aside


def _ready(path: Path) -> Path:
    return path.with_name(f".{path.name}.new")


def _set_up(db: sqlite3.Connection) -> None:
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")


def _has_log(path: Path) -> bool:
    """Whether there is a write-ahead log of it with anything in it."""
    log = Path(f"{path}-wal")
    return log.exists() and log.stat().st_size > 0


def _check_start(path: Path) -> None:
    """Of a file that nobody has opened yet: where it does not begin as SQLite's files do, SQLite
    would drop what waits in its log, or could not say whose it is.
    """
    with path.open("rb") as file:
        start = file.read(100)
    if _has_log(path) and not start.startswith(_MAGIC):
        raise DamagedStoreError(f"alert store {path}: its beginning is missing", _REMEDY_DAMAGED)
    if start and not start.startswith(_MAGIC):
        raise StoreError(f"alert store {path}: file is not a database", _REMEDY_FOREIGN)


def _check_owner(path: Path, db: sqlite3.Connection) -> None:
    (owner,) = db.execute("PRAGMA application_id").fetchone()
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if owner != APPLICATION_ID:
        raise StoreError(f"alert store {path}: it belongs to another program", _REMEDY_FOREIGN)
    if version != SCHEMA_VERSION:
        raise StoreError(
            f"alert store {path}: its schema is version {version}, this saeguard reads"
            f" {SCHEMA_VERSION}",
            "use the saeguard that has written it, or give another path",
        )


def fail(path: Path, error: Exception) -> NoReturn:
    """Say what went wrong with the file at `path`.

    Raises:
        DamagedStoreError: it is damaged.
        StoreError: anything else.
    """
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        remedy = _REMEDY_DAMAGED if code == sqlite3.SQLITE_CORRUPT else _REMEDY_FOREIGN
        raise DamagedStoreError(f"alert store {path}: {error}", remedy) from error
    raise StoreError(f"alert store {path}: {error}", _REMEDY) from error
