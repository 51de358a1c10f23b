"""Who may write to a store: one monitor at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from pathlib import Path
from typing import IO

from saeguard.monitor.store_file import StoreError, fail

_WAIT_S = 15.0
"""How long a monitor that is ending is waited for: it may have alerts to deliver."""


def claim(path: Path, timeout_s: float = _WAIT_S) -> IO[str]:
    """A file that holds the right to write to the store until it is closed, or we are gone.

    Raises:
        StoreError: another monitor has it, or the directory cannot be written.
    """
    deadline_s = time.monotonic() + timeout_s
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = open(_lock(path), "a+", opener=_private)  # noqa: SIM115
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
    with contextlib.suppress(OSError):  # the disk is full: the claim holds without a name
        file.truncate(0)
        os.write(file.fileno(), str(os.getpid()).encode())
    return file


def is_held(file: IO[str], path: Path) -> bool:
    """Whether a claim still keeps others away: its file may have been deleted."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), _lock(path).stat())
    except OSError:
        return False


def _lock(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, mode=0o600)
