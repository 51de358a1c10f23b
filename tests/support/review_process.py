"""`saeguard review` as a process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SAEGUARD = (sys.executable, "-c", "from saeguard.monitor.cli import main; main()")


@contextmanager
def review(path: Path, *arguments: str) -> Iterator[str]:
    """The URL that it prints."""
    command = [*SAEGUARD, "review", "--store", str(path), "--port", "0", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait(20)
