"""An engine of a capture, with the monitor that watches it, in a directory of its own: in the
process of the command, or in one that works on shards elsewhere.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from saeguard.integrations.output import printing_to
from saeguard.integrations.vllm.capture import silent
from saeguard.integrations.vllm.capture.bounds import STORE_MIB, Bounds
from saeguard.integrations.vllm.capture.parts import Part
from saeguard.integrations.vllm.capture.session import Captured, Session
from saeguard.integrations.vllm.capture.watched import Watched
from saeguard.monitor.errors import SaeguardError
from saeguard.monitor.watchlist import save

LOG = "engine.log"
_NUM_LINES = 20


class EngineError(SaeguardError):
    """The engine did not start, or ended."""


@dataclass(frozen=True, slots=True)
class Setup:
    """Of any engine of a capture. Small: it is sent to every process that has one.

    Attributes:
        model: a directory or a name on a hub.
        vllm_args: those of `vllm serve`.
        max_tokens: of an answer, where the request says nothing else.
        work: below it each engine has its directory.
    """

    model: str
    vllm_args: tuple[str, ...]
    watch: Watched
    max_tokens: int
    work: Path

    @property
    def log(self) -> Path:
        """Of the engine of this process."""
        return self._directory / LOG

    @contextlib.contextmanager
    def start(self) -> Iterator[Callable[[Part], Captured]]:
        """Start one, and give what runs requests on it. Its directory stays if something fails.

        Raises:
            EngineError: it did not start; with the end of its log.
        """
        directory = self._directory
        directory.mkdir(parents=True)
        config = write_config(directory, self.watch)
        with _engine(["--model", self.model, *self.vllm_args], config, self.log) as engine:
            store = directory / "alerts.sqlite"
            yield partial(self._run, Session(engine, store, self.watch, self.max_tokens))
        shutil.rmtree(directory)

    def _run(self, session: Session, part: Part) -> Captured:
        captured = session.run(part)
        if captured.failed:
            captured.files[LOG] = self.log.read_bytes()
        return captured

    @property
    def _directory(self) -> Path:
        return self.work / f"engine-{os.getpid()}"


def write_config(directory: Path, watch: Watched) -> Path:
    """What the engine is watched with: `saeguard.yaml`, and the files that it names."""
    save(watch.compile(directory), directory / "watch.safetensors")
    values = {
        "version": 1,
        "rules": [silent.FILE],
        "watchlist": "watch.safetensors",
        "store": "alerts.sqlite",
        "reload": False,
        "fail": "closed",  # what is not seen is not to be taken for silence
        "record_share": 1.0,
        "record_tokens": Bounds(len(watch.columns)).record_tokens,
        "store_mib": STORE_MIB,
    }
    path = directory / "saeguard.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


@contextlib.contextmanager
def _engine(arguments: list[str], config: Path, log: Path) -> Iterator[Any]:
    """A watched engine; what vLLM prints meanwhile goes to the log."""
    os.environ |= {"SAEGUARD_CONFIG": str(config), "VLLM_NO_USAGE_STATS": "1"}
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")  # as `vllm serve` does
    # In this process, the requests of a batch are there before its first step: so each step has the
    # same of them when they run again, and rounds alike.
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    with log.open("wb") as file, printing_to(file.fileno()):
        try:
            from saeguard.integrations.vllm.offline_engine import start_engine

            engine = start_engine(arguments)
        except (Exception, SystemExit) as error:
            said = f"{error}\nthe end of {log}:\n{_tail(log)}"
            raise EngineError(f"the engine did not start: {said}") from error
        try:
            yield engine
        finally:
            engine.engine_core.shutdown()


def _tail(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return "\n".join(lines[-_NUM_LINES:])
