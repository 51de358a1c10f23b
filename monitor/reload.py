"""Rules and watchlist that change while the monitor runs.

Files are read and checked on the watcher's thread, exactly as at the start. The service's thread is
handed a whole `Rulebook`, ready to be adopted between two steps, or a `Refusal`. Where the
watchlist is another one, too, the workers are first brought to use it: all of them, or the book is
refused.
"""

from __future__ import annotations

import queue
from collections.abc import Callable
from dataclasses import dataclass

from saeguard.monitor.config import Config
from saeguard.monitor.errors import SaeguardError
from saeguard.monitor.logging import logger
from saeguard.monitor.messages import Control, SwapStatus
from saeguard.monitor.rulebook import Rulebook, load_rulebook
from saeguard.monitor.swap import Swapper, SwapResult
from saeguard.monitor.watch import FileWatcher
from saeguard.monitor.watchlist import Watchlist

log = logger("saeguard.monitor")


@dataclass(frozen=True, slots=True)
class Refusal:
    """The files as they are now cannot be used; the monitor goes on as before."""

    reason: str
    """Every finding on a line of its own, and what to do."""
    is_blinding: bool = False
    """The workers do not use the watchlist in force: their scores cannot be read."""


class Reloader:
    """Watches the files of a configuration. Its methods are for the service's thread."""

    def __init__(
        self,
        config: Config,
        send: Callable[[Control], None],
        expect: Callable[[Watchlist], None],
    ) -> None:
        """
        Args:
            send: speaks to the workers.
            expect: told of a watchlist that workers are about to use.

        Raises:
            ConfigError, WatchlistError: the files cannot be used as they are at the start.
        """
        self._config = config
        self._expect = expect
        self._changes: queue.SimpleQueue[Rulebook | Refusal] = queue.SimpleQueue()
        self._watcher = FileWatcher(config.rules, config.watchlist, self._load)
        self._usable = load_rulebook(config)  # the last that could be read
        self.book = self._usable
        """In force, or just handed out to be."""
        self.is_blind = False
        """Workers refuse the watchlist in force."""
        self._waiting: Rulebook | None = None
        """For all workers to use its watchlist."""
        self._swapper = Swapper(send)
        # Workers may know it, or another from before we started.
        self._swapper.offer(self.book.watchlist.digest)
        if config.reload:
            self._watcher.start()

    def poll(self, now_s: float) -> Rulebook | Refusal | None:
        """To be called often. The next book to adopt, or why there is none."""
        if (result := self._swapper.poll(now_s)) is not None:
            return self._swapped(result)
        try:
            change = self._changes.get_nowait()
        except queue.Empty:
            return None
        return change if isinstance(change, Refusal) else self._changed(change)

    def hear(self, status: SwapStatus) -> None:
        """A worker tells how far it is in changing its watchlist."""
        self._swapper.hear(status)

    def worker_started(self, worker: int) -> None:
        """It has read the watchlist's file as it is now."""
        self._swapper.worker_started(worker)

    def close(self) -> None:
        self._watcher.close()

    def _load(self) -> None:
        """Runs on the watcher's thread."""
        try:
            book = load_rulebook(self._config, self._usable)
        except SaeguardError as error:
            self._changes.put(Refusal(str(error)))
        except Exception as error:  # a fault of ours must not end the watching
            self._changes.put(Refusal(f"{type(error).__name__}: {error}"))
        else:
            self._usable = book
            self._changes.put(book)

    def _changed(self, book: Rulebook) -> Rulebook | None:
        """Rules for the same scores are adopted at once, others when the workers are ready."""
        self._swapper.offer(book.watchlist.digest)  # again, too: it may have been refused
        if book.watchlist.digest != self.book.watchlist.digest:
            self._waiting = book
            self._expect(book.watchlist)
            return None
        self._waiting = None
        if book.is_same_as(self.book.ruleset, self.book.watchlist):
            log.info("rules_unchanged", sha256=book.ruleset.sha256)
            return None
        self.book = book
        return book

    def _swapped(self, result: SwapResult) -> Rulebook | Refusal | None:
        if result.refusal:  # the book goes on waiting: a worker that starts anew may have room
            return self._refused(result)
        if self.is_blind:
            self.is_blind = False
            log.info("no_longer_blind", watchlist=result.watchlist)
        book, self._waiting = self._waiting, None
        if book is not None:
            self.book = book
        return book

    def _refused(self, result: SwapResult) -> Refusal:
        path = self._config.watchlist
        if result.watchlist != self.book.watchlist.digest:
            return Refusal(f"{path}: {result.refusal}")
        self.is_blind = True
        return Refusal(
            f"the server watches with another watchlist than {path}, and refuses this one: "
            f"{result.refusal} (restart the server, or put the watchlist back that it was "
            "started with, and rules that fit it)",
            is_blinding=True,
        )
