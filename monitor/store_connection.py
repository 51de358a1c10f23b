"""The one connection that writes to a store. Where its file is damaged or gone, it goes on in a new
one, with what could be read of the old.
"""

from __future__ import annotations

import queue
import sqlite3
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saeguard.monitor import retention
from saeguard.monitor.alerts import Severity
from saeguard.monitor.logging import logger
from saeguard.monitor.salvage import salvage
from saeguard.monitor.store_claim import claim, is_held
from saeguard.monitor.store_file import (
    DamagedStoreError,
    StoreError,
    fail,
    finish,
    identity,
    keep_aside,
    make,
    open_for_writing,
    remove,
    set_aside,
    take_place,
)

Statement = tuple[str, Sequence[Any]]

ACKNOWLEDGE = """
INSERT INTO cursors (destination, row) VALUES (?, ?)
ON CONFLICT (destination) DO UPDATE SET row = max(row, excluded.row)"""
_KNOW = "INSERT OR IGNORE INTO destinations VALUES (?)"
_LAST_ROW = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'alerts'"

log = logger(__name__)


@dataclass(frozen=True, slots=True)
class News:
    """Something that happened to the store and that people should hear of: a health alert."""

    name: str
    title: str
    message: str
    severity: Severity = "critical"


class StoreConnection:
    """Any thread may call it."""

    def __init__(self, path: Path, max_bytes: int, destinations: Iterable[str] = ()) -> None:
        """
        Args:
            destinations: those for which alerts are kept from the first moment on.

        Raises:
            StoreError: it cannot be written, or another monitor writes to it.
        """
        self.path = path
        self._log = Path(f"{path}-wal")
        self.news: queue.SimpleQueue[News] = queue.SimpleQueue()
        self.epoch = 0
        """Another one for each file."""
        self.last_row = 0
        """The highest number of an alert that a destination may have read."""
        self._max_bytes = max_bytes
        self._destinations = list(destinations)
        self._lock = threading.Lock()
        self._claim = claim(path)
        self._db = sqlite3.connect(":memory:", check_same_thread=False)  # until there is a file
        self._identity: tuple[int, int] | None = None
        self._log_identity: tuple[int, int] | None = None
        self._aside: Path | None = None
        """By which a damaged file is kept, while it is still at the path as well."""
        self._refill: Callable[[sqlite3.Connection], News] = self._move
        try:
            self._begin()
        except StoreError:
            self._claim.close()
            raise

    def add_destination(self, name: str) -> retention.Evicted:
        """Alerts are kept for it until it has acknowledged them. Says what had to make room.

        Raises:
            StoreError: it cannot be written.
        """
        self._destinations.append(name)
        return self.execute([(ACKNOWLEDGE, (name, 0)), (_KNOW, (name,))])

    def execute(self, statements: Sequence[Statement]) -> retention.Evicted:
        """All of them, or none; durable on return. Says what had to make room.

        Raises:
            StoreError: they cannot be written.
        """
        with self._lock:
            if identity(self.path) != self._identity:
                self._renew()
            try:
                return self._run(statements)
            except DamagedStoreError as error:
                self._replace(error)
                return self._run(statements)

    def replace(self, error: DamagedStoreError, epoch: int) -> None:
        """To be called by who has found the file of that epoch damaged, or another one there.

        Raises:
            StoreError: there cannot be a new one yet.
        """
        with self._lock:
            if epoch != self.epoch:
                return
            if identity(self.path) == self._identity:
                self._replace(error)
            else:
                self._renew()

    def close(self) -> None:
        with self._lock:
            self._db.close()
            self._claim.close()

    def _begin(self) -> None:
        try:
            if finish(self.path):
                self._tell(
                    News(
                        "saeguard.store_damaged",
                        "The alert store was damaged",
                        f"A monitor was killed while it put a new one at {self.path}. That is done"
                        f" now; the damaged one is beside it, as {self.path.name}.damaged-*",
                    )
                )
            self._open()
        except DamagedStoreError as error:
            self._replace(error)

    def _open(self) -> None:
        self._db = open_for_writing(self.path)
        self._identity = identity(self.path)
        self._log_identity = identity(self._log)
        self._refill, self._aside = self._move, None
        self.epoch += 1
        try:
            self._db.executescript(retention.OPEN)
            with self._db:
                self._db.executemany(_KNOW, [(name,) for name in self._destinations])
        except sqlite3.Error as error:
            fail(self.path, error)

    def _run(self, statements: Sequence[Statement]) -> retention.Evicted:
        try:
            with self._db:
                for sql, values in statements:
                    self._db.execute(sql, values)
                (last_row,) = self._db.execute(_LAST_ROW).fetchone()
                self.last_row = max(self.last_row, last_row)
                return retention.make_room(self._db, self._max_bytes)
        except sqlite3.Error as error:
            fail(self.path, error)

    def _replace(self, error: DamagedStoreError) -> None:
        """Go on without a damaged file, which is kept under another name."""
        self._aside = aside = keep_aside(self.path, "damaged")
        self._db.close()
        self._identity = None  # so that the next one tries again

        def refill(new: sqlite3.Connection) -> News:
            num_alerts = salvage(aside, new, self.last_row)
            return News(
                "saeguard.store_damaged",
                "The alert store was damaged",
                f"{error.message}. It is now {aside}, and {num_alerts} alerts that could be read"
                f" are in a new one",
            )

        self._refill = refill
        try:
            self._renew()
        except StoreError:
            if not self.epoch:  # the monitor does not start, and the next one begins anew
                remove(aside)
            raise

    def _renew(self) -> None:
        """Make a new file, with what can be had of the one before, and only then let go of that:
        whenever we are killed, the next monitor finds one of them.
        """
        if not is_held(self._claim, self.path):  # its folder is gone
            lost, self._claim = self._claim, claim(self.path, timeout_s=0)
            lost.close()
        news: list[News] = []
        old, refill = self._db, self._refill

        def fill(new: sqlite3.Connection) -> None:
            news.append(refill(new))
            new.executemany(ACKNOWLEDGE, [(name, 0) for name in self._destinations])
            new.commit()

        new = make(self.path, fill)
        if self._aside is None or identity(self._aside) != identity(self.path):
            self._clear()
        take_place(new, self.path)
        for each in news:
            self._tell(each)
        self._open()
        old.close()

    def _clear(self) -> None:
        """Keep what somebody has put at the path."""
        if identity(self._log) == self._log_identity:  # ours, and it is read by who has it open
            try:
                self._log.unlink(missing_ok=True)
            except OSError as error:
                fail(self.path, error)
        if self.path.exists() or self._log.exists():
            set_aside(self.path, "foreign")

    def _tell(self, news: News) -> None:
        log.critical("store_renewed", why=news.name, message=news.message)
        self.news.put(news)

    def _move(self, new: sqlite3.Connection) -> News:
        """What an open file held can be read for as long as it is not closed."""
        self._db.backup(new)
        return News(
            "saeguard.store_gone",
            "The alert store was deleted",
            f"{self.path} was deleted or moved while the monitor wrote to it."
            " All that it held was written there anew",
        )
