"""A Ray cluster on the loopback interface, as somebody would start it by hand; commands that work
on one; and gates, at which its workers wait to be killed.
"""

from __future__ import annotations

import os
import secrets
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

LONGEST_S = 600
"""For a machine that is busy with other things."""
ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
    "RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES": str(150 * 2**20),
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # on 127.0.0.1
    "RAY_USAGE_STATS_ENABLED": "0",
}


@contextmanager
def ray_cluster(num_cpus: int) -> Iterator[str]:
    """Its address."""
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as directory:
        log = Path(directory) / "start.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [
                    sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block",
                    "--port=0", "--node-ip-address=127.0.0.1", f"--num-cpus={num_cpus}",
                    "--include-dashboard=false", f"--temp-dir={directory}/t",
                ],
                stdout=file, stderr=file, env={**os.environ, **ENVIRONMENT},
            )  # fmt: skip
        try:
            wait_for(lambda: "--block" in log.read_text(), process, log.read_text)
            yield Path(directory, "t", "ray_current_cluster").read_text().strip()
        finally:
            with suppress(psutil.NoSuchProcess):  # it ended by itself, and `wait_for` says how
                started = psutil.Process(process.pid).children(recursive=True)
                for each in (*started, process):  # asked to stop, they would take half a minute
                    with suppress(psutil.NoSuchProcess):
                        each.kill()
            process.wait()


def wait_for(
    is_there: Callable[[], object],
    process: subprocess.Popen[bytes],
    said: Callable[[], str] = str,
) -> None:
    """Until it is there; the process must not end before."""
    deadline_s = time.monotonic() + LONGEST_S
    while not is_there():
        assert process.poll() is None, f"ended with {process.returncode}: {said()}"
        assert time.monotonic() < deadline_s, f"still not there: {said()}"
        time.sleep(0.02)


@dataclass(frozen=True)
class Printed:
    exit_code: int
    out: str
    err: str


@contextmanager
def running(folder: Path, *arguments: str, before: str = "") -> Iterator[subprocess.Popen[bytes]]:
    """`saeguard` in a process of its own."""
    command = f"{before}from saeguard.monitor.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", command, *arguments], cwd=folder,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **ENVIRONMENT},
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()


def printed(process: subprocess.Popen[bytes]) -> Printed:
    out, err = process.communicate(timeout=LONGEST_S)
    return Printed(process.returncode, out.decode(), err.decode())


def run(folder: Path, *arguments: str, before: str = "") -> Printed:
    with running(folder, *arguments, before=before) as process:
        return printed(process)


class Gate:
    """A recording at which whoever reads it waits."""

    def __init__(self, path: Path) -> None:
        self._content = path.read_bytes()
        self._path = path
        path.unlink()
        os.mkfifo(path)

    def kill_reader(self, process: subprocess.Popen[bytes]) -> None:
        """Wait for one, and kill it as it waits."""
        writer = self._open(process)
        wait_for(self._readers, process)  # it is there once its opening has returned
        (pid,) = self._readers()
        ended = os.pidfd_open(pid)
        os.kill(pid, signal.SIGKILL)  # from here on it does nothing any more
        os.close(writer)
        assert select.select([ended], [], [], LONGEST_S)[0]  # only now it has closed the gate
        os.close(ended)

    def open(self, process: subprocess.Popen[bytes]) -> None:
        """Wait for a reader, and let it read."""
        writer = self._open(process)
        os.set_blocking(writer, True)
        with os.fdopen(writer, "wb") as file:
            file.write(self._content)

    def _open(self, process: subprocess.Popen[bytes]) -> int:
        """Once somebody reads."""
        opened: list[int] = []

        def is_read() -> bool:
            try:
                opened.append(os.open(self._path, os.O_WRONLY | os.O_NONBLOCK))
            except OSError:  # nobody has it open
                return False
            return True

        wait_for(is_read, process)
        return opened[0]

    def _readers(self) -> list[int]:
        """Processes that have it open."""
        pids = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
        return [pid for pid in pids if pid != os.getpid() and self._is_open_in(pid)]

    def _is_open_in(self, pid: int) -> bool:
        try:
            return any(link.readlink() == self._path for link in Path(f"/proc/{pid}/fd").iterdir())
        except OSError:  # it has ended, or closed something meanwhile
            return False
