"""Processes that have imported vLLM already: its import takes most of a small engine's start.

As a script it is the process that imports it, once, and then forks one process for each command.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from functools import lru_cache
from multiprocessing.connection import Connection, Pipe
from pathlib import Path

SHIMS = Path(__file__).parent / "shims"
ON_IMPORT = ("V2_ON_CPU", "TORCHDYNAMO_DISABLE")
"""Variables of the environment that count while vLLM is imported: a process cannot change them."""


class Process:
    """A forked process. It ends when `connection` is closed, if it heeds that."""

    def __init__(self, pid: int, pidfd: int, connection: Connection) -> None:
        self.pid = pid
        self.connection = connection
        """To what it runs, which has the other end."""
        self._pidfd = pidfd

    def has_ended(self, timeout_s: float = 0.0) -> bool:
        """Waits for it so long."""
        return bool(select.select([self._pidfd], [], [], timeout_s)[0])

    def kill(self) -> None:
        """And what it has started and left."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Let it end by itself, within 30 s."""
        self.connection.close()
        self.has_ended(30.0)
        self.kill()
        os.close(self._pidfd)


def start(module: str, env: dict[str, str], directory: Path, log: Path) -> Process:
    """Run `module.main(connection)` in this directory, with this added to the environment; what it
    prints is the log. `module` is one of this folder's.
    """
    on_import = tuple((name, env[name]) for name in ON_IMPORT if name in env)
    commands = _preload(on_import)
    ours, theirs = Pipe()
    command = {"module": module, "env": env, "directory": str(directory)}
    with log.open("wb") as output, theirs:
        fds = [theirs.fileno(), output.fileno()]
        socket.send_fds(commands, [json.dumps(command).encode()], fds)
        pid, pidfds, _, _ = socket.recv_fds(commands, 20, 1)
    if not pid:
        raise RuntimeError("the process that imports vLLM has ended; its last words are above")
    return Process(int(pid), *pidfds, ours)


@lru_cache
def _preload(on_import: tuple[tuple[str, str], ...]) -> socket.socket:
    """Start the process that forks; it ends when this one does."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(SHIMS), **dict(on_import)}
    env.pop("SAEGUARD_CONFIG", None)  # a fork could not be without it
    with theirs:
        process = subprocess.Popen(
            [sys.executable, __file__, str(theirs.fileno())], env=env, pass_fds=[theirs.fileno()]
        )
    atexit.register(process.wait)
    atexit.register(ours.close)
    return ours


def _serve(commands: socket.socket) -> Callable[[], None] | None:
    """Fork for each command; returns in each fork, with what it is to run, and at the end."""
    while True:
        message, fds, _, _ = socket.recv_fds(commands, 1 << 20, 2)
        if not message:
            return None
        pid = os.fork()
        if pid == 0:
            return _become(json.loads(message), *fds)
        os.setpgid(pid, pid)
        pidfd = os.pidfd_open(pid)
        socket.send_fds(commands, [str(pid).encode()], [pidfd])
        for fd in (pidfd, *fds):
            os.close(fd)


def _become(command: dict[str, object], connection: int, log: int) -> Callable[[], None]:
    os.environ.update(command["env"])
    os.chdir(command["directory"])
    for fd in (1, 2):
        os.dup2(log, fd)
    os.close(log)
    module = importlib.import_module(command["module"])
    return lambda: module.main(Connection(connection))


def main() -> None:
    from vllm import LLM, SamplingParams  # noqa: F401

    with socket.socket(fileno=int(sys.argv[1])) as commands:
        run = _serve(commands)
    if run is not None:
        run()


if __name__ == "__main__":
    main()
