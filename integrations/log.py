"""Alerts as lines of JSON, to a stream or a file: for whatever collects logs already."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from saeguard.monitor.alerts import Alert
from saeguard.monitor.delivery import DeliveryError
from saeguard.monitor.errors import ConfigError
from saeguard.monitor.logging import json_line


class LogDestination:
    """Writes one line for each alert, with the fields that a webhook gets, and an `event` and a
    `timestamp` before them.

    Args:
        stream: where to; what is behind it may be gone before it has read a line.
        path: or the file to append to, for the owner alone. A line is on the disk before it counts
            as taken. The file is opened anew when it has been moved or removed.

    Raises:
        ConfigError: not one of the two is given, or it cannot be.
    """

    def __init__(
        self, stream: Literal["stderr", "stdout"] | None = None, path: Path | None = None
    ) -> None:
        if (stream is None) == (path is None):
            raise ConfigError("the log destination needs a stream or a path", "give one of them")
        self._place = str(stream or path)
        self._to = _File(path) if path is not None else _Stream(str(stream))

    @property
    def name(self) -> str:
        return f"log:{self._place}"

    def deliver(self, alerts: Sequence[Alert]) -> None:
        lines = "".join(f"{json_line(alert)}\n" for alert in alerts)
        try:
            self._to.append(lines.encode())
        except OSError as error:
            reason = error.strerror or error
            raise DeliveryError(f"{self._place}: {reason}", retriable=True) from error

    def close(self) -> None:
        self._to.close()


class _Stream:
    """Not through Python's own buffer, which would keep what it could not write."""

    def __init__(self, name: str) -> None:
        stream = getattr(sys, name)
        if stream is None:  # and its number may be some other file's by now
            raise ConfigError(f"{name} is closed")
        self._fd = stream.fileno()
        self._is_torn = False

    def append(self, lines: bytes) -> None:
        lines = b"\n" + lines if self._is_torn else lines
        self._is_torn = True
        _write(self._fd, lines)
        self._is_torn = False

    def close(self) -> None:
        """It is not ours."""


class _File:
    def __init__(self, path: Path) -> None:
        if path.is_dir() or not path.parent.is_dir():
            raise ConfigError(f"no file can be written at {path}", "name one in a directory")
        self._path = path
        self._fd: int | None = None

    def append(self, lines: bytes) -> None:
        is_there = False
        while not is_there:  # else it was deleted while we wrote to it
            fd = self._open()
            before = os.fstat(fd)
            try:
                _write(fd, lines)
                if stat.S_ISREG(before.st_mode):
                    os.fsync(fd)
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(fd, before.st_size)  # no half lines, on a full disk for one
                raise
            is_there = os.fstat(fd).st_nlink > 0

    def close(self) -> None:
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    def _open(self) -> int:
        if self._fd is None or not self._is_at_its_path(self._fd):
            self.close()
            self._fd = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
            self._end_last_line(self._fd)
        return self._fd

    def _is_at_its_path(self, fd: int) -> bool:
        try:
            return os.path.samestat(os.stat(self._path), os.fstat(fd))
        except FileNotFoundError:
            return False

    def _end_last_line(self, fd: int) -> None:
        """Where a monitor was killed while it wrote."""
        size = os.fstat(fd).st_size
        if size and os.pread(fd, 1, size - 1) != b"\n":
            _write(fd, b"\n")


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]
