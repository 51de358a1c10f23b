"""A `saeguard serve` of the demo model, as a child process."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Self

from saeguard.monitor.errors import SaeguardError

MODEL_NAME = "organism"
_START_S = 300.0
_STOP_S = 30.0


class ServerError(SaeguardError):
    """The server did not start, or ended."""


class Server:
    """Starts on a free port of the loopback interface; a context manager that also ends it."""

    def __init__(self, model: Path, config: Path, log: Path, *vllm_args: str) -> None:
        self.log = log
        self.port = _free_port()
        self.base_url = f"http://127.0.0.1:{self.port}/v1"
        saeguard = str(Path(sys.executable).with_name("saeguard"))
        command = [
            saeguard, "serve", str(model), "--config", str(config), "--",
            "--host", "127.0.0.1", "--port", str(self.port), "--served-model-name", MODEL_NAME,
            "--max-model-len", "1024", *vllm_args,
        ]  # fmt: skip
        environment = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", **os.environ}
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                process_group=0,
            )

    def wait_until_ready(self, on_wait: Callable[[float, str], None]) -> None:
        """Return once the server answers; tells `on_wait` the seconds and the log's last line.

        Raises:
            ServerError: it ended, or took too long.
        """
        started_s = time.monotonic()
        while (waited_s := time.monotonic() - started_s) < _START_S:
            if self._process.poll() is not None:
                raise ServerError(
                    f"the server ended with code {self._process.returncode}:\n{self.tail()}"
                )
            if self._answers():
                return
            on_wait(waited_s, self.tail(1))
            time.sleep(0.5)
        raise ServerError(f"the server was not ready after {_START_S:.0f} s:\n{self.tail()}")

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=2):
                return True
        except OSError:
            return False

    def tail(self, num_lines: int = 25) -> str:
        """The end of the server's log."""
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return "\n".join(lines[-num_lines:])

    def wait(self) -> None:
        """Until the server ends by itself or the user interrupts."""
        with contextlib.suppress(KeyboardInterrupt):
            self._process.wait()

    def stop(self) -> None:
        """End the server and everything it started."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOP_S)
        with contextlib.suppress(ProcessLookupError):  # the group is our own: nobody else is hit
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
