"""How data-parallel engines of a node share a monitor: the first to come starts it, and ends it
when the others are gone.
"""

from __future__ import annotations

import fcntl
import time
from pathlib import Path
from typing import TextIO

_POLL_S = 0.05


class Seat:
    """An engine's place at a run directory, for as long as it is not left. The locks are the
    operating system's: whoever dies leaves his.
    """

    def __init__(self, run_dir: Path) -> None:
        self._engines = (run_dir / "engines").open("a")
        self._first = (run_dir / "first").open("a")
        fcntl.flock(self._engines, fcntl.LOCK_SH)
        self.is_first = _locks(self._first)
        """Of those that are there now."""

    def leave(self, timeout_s: float = 2.0) -> None:
        """Whoever was the first does it as the last, unless the others take too long."""
        if self.is_first:
            deadline_s = time.monotonic() + timeout_s
            while not (is_alone := _locks(self._engines)) and time.monotonic() < deadline_s:
                time.sleep(_POLL_S)
            if is_alone:
                Path(self._engines.name).unlink(missing_ok=True)
                Path(self._first.name).unlink(missing_ok=True)
        self._engines.close()
        self._first.close()


def _locks(file: TextIO) -> bool:
    """Whether nobody else has a lock on this file; then nobody else can get one."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
