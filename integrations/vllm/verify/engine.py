"""The process with the engine, from outside."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self, TypeVar

import msgspec

from saeguard.integrations.vllm.verify.protocol import (
    Ask,
    Command,
    EngineFacts,
    Look,
    Serve,
    Served,
)
from saeguard.monitor.errors import SaeguardError

_MODULE = "saeguard.integrations.vllm.verify.engine_process"
_STOP_S = 30.0
_NUM_LINES = 20

T = TypeVar("T", EngineFacts, Served)


class EngineError(SaeguardError):
    """The engine did not start, or ended before it was told to."""


class Engine:
    """One vLLM engine in a process of its own, as long as it is entered."""

    def __init__(
        self, model: str, vllm_args: Sequence[str], log: Path, env: Mapping[str, str]
    ) -> None:
        """
        Args:
            vllm_args: what `vllm serve` would be given besides the model.
            log: a file for all that it prints.
            env: more of its environment.
        """
        self.log = log
        # -P: a `monitor/` folder where we were started must not shadow anything.
        self._command = [sys.executable, "-P", "-m", _MODULE, "--model", model, *vllm_args]
        self._environment = {
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # as `vllm serve` does
            **os.environ,
            "VLLM_ALLOW_INSECURE_SERIALIZATION": "1",  # workers are sent a function of ours
            **env,
        }

    def __enter__(self) -> Self:
        """
        Raises:
            EngineError: it did not start; with the end of its log.
        """
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command, env=self._environment, process_group=0,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
            )  # fmt: skip
        try:
            self.facts = self._hear(EngineFacts)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def look(self) -> EngineFacts:
        """Its state now; what it was at the start is in `facts`."""
        self._tell(Look())
        return self._hear(EngineFacts)

    def serve(self, asks: Sequence[Ask]) -> Served:
        """Answer these requests together.

        Raises:
            EngineError: it has ended; with the end of its log.
        """
        self.begin(asks)
        return self.answers()

    def begin(self, asks: Sequence[Ask]) -> None:
        """The same without waiting; `answers` waits."""
        self._tell(Serve(list(asks)))

    def answers(self) -> Served:
        return self._hear(Served)

    def stop(self) -> None:
        """End it and all that it has started; its monitor stores what it has."""
        if self._process.returncode is not None:
            return
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOP_S)
        with contextlib.suppress(ProcessLookupError):  # the group is our own: nobody else is hit
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def log_lines(self, part: str = "") -> list[str]:
        """Those lines of its log that have this in them."""
        lines = self.log.read_text(errors="replace").splitlines()
        return [line for line in lines if part in line and line.strip()]

    def _tell(self, command: Command) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(msgspec.json.encode(command) + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise self._has_ended("ended") from error

    def _hear(self, kind: type[T]) -> T:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._has_ended("ended" if hasattr(self, "facts") else "did not start")
        return msgspec.json.decode(line, type=kind)

    def _has_ended(self, what: str) -> EngineError:
        tail = "\n".join(self.log_lines()[-_NUM_LINES:])
        return EngineError(f"the {self.log.stem} engine {what}; the end of {self.log}:\n{tail}")
