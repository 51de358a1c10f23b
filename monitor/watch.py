"""Notices that rule files or the watchlist have changed, on a thread of its own.

Directories are watched, not files: a file that is replaced by a rename, or a ConfigMap whose
`..data` link is changed, is another file behind the same name. What has really changed the contents
tell, and they are looked at again every few seconds: not every file system says what happens on it.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from watchfiles import watch

from saeguard.monitor.logging import logger
from saeguard.rules.loading.sources import all_rule_files, is_pack

_LOOK_EVERY_S = 2.0
_QUIET_S = 0.25
_PATIENCE_S = 5.0
"""How long files may go on changing before they are taken as they are."""

log = logger(__name__)


class FileWatcher:
    """Calls `act` on its thread when files have changed since it was made, and come to rest."""

    def __init__(
        self, rules: Sequence[Path | str], watchlist: Path, act: Callable[[], None]
    ) -> None:
        """
        Args:
            rules: files, directories and packs.
            watchlist: another file to watch.
            act: must not raise.
        """
        self._rules = rules
        self._watchlist = watchlist
        self._act = act
        self._seen = self._contents()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="saeguard-watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """End the thread, unless it is long at what it does: then the process ends it."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(2.0)

    def _run(self) -> None:
        try:
            for _ in self._wakes():
                self._look()
        except Exception as error:  # whatever keeps the system from telling us
            log.warning("watching_by_polling", error=str(error), every_s=_LOOK_EVERY_S)
            while not self._closing.wait(_LOOK_EVERY_S):
                self._look()

    def _wakes(self) -> Iterator[object]:
        """At every change in the directories, and every few seconds anyway."""
        return watch(
            *self._directories(),
            watch_filter=None,
            debounce=500,
            step=50,
            stop_event=self._closing,
            rust_timeout=int(_LOOK_EVERY_S * 1000),
            yield_on_timeout=True,
            raise_interrupt=False,
            recursive=False,
        )

    def _directories(self) -> set[Path]:
        paths = [Path(item) for item in self._rules if not is_pack(item)]
        folders = {path for path in paths if path.is_dir()}
        folders |= {path.parent for path in (*paths, self._watchlist)}
        return {folder for folder in folders if folder.is_dir()}

    def _look(self) -> None:
        if self._contents() != self._seen:
            self._seen = self._contents_at_rest()
            self._act()

    def _contents_at_rest(self) -> bytes:
        deadline_s = time.monotonic() + _PATIENCE_S
        before = self._contents()
        while not self._closing.wait(_QUIET_S) and time.monotonic() < deadline_s:
            now = self._contents()
            if now == before:
                break
            before = now
        return before

    def _contents(self) -> bytes:
        """A digest that differs whenever what `act` would read differs."""
        errors: Sequence[object]
        try:
            files, errors = all_rule_files(self._rules)
        except (OSError, RuntimeError) as error:  # such as a loop of links
            files, errors = [], [error]
        digest = hashlib.sha256(repr(errors).encode())
        for path in files:
            try:
                content = path.read_bytes()
            except OSError as error:
                content = repr(error).encode()
            digest.update(f"{path}\0{len(content)}\0".encode())
            digest.update(content)
        try:
            status = self._watchlist.stat()  # it is large, and always written as a new file
            digest.update(f"{status.st_ino} {status.st_mtime_ns} {status.st_size}".encode())
        except OSError as error:
            digest.update(repr(error).encode())
        return digest.digest()
