"""The monitor as a process: how it starts, what ends it, and how it shares the machine."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

from saeguard.monitor.config import Config
from saeguard.monitor.service import Service


def serve(config: Config, run_dir: Path, parent: int | None = None) -> None:
    """Run the monitor until it is told to stop or `parent`, a process id, is gone.

    `run_dir` holds its sockets.

    Raises:
        SaeguardError: it cannot start as configured.
    """
    stop = Stop(parent)
    _yield_to_the_engine()
    os.environ["SAEGUARD_LOG"] = config.log
    service = Service(config, run_dir)
    (run_dir / "ready").touch()
    try:
        service.run(stop)
    finally:
        service.close()


class Stop:
    """True once a signal has asked us to end, or the process that started us is gone."""

    def __init__(self, parent: int | None) -> None:
        self._signalled = False
        self._parent = parent or os.getppid()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def __call__(self) -> bool:
        return self._signalled or os.getppid() != self._parent

    def _on_signal(self, *_: object) -> None:
        self._signalled = True


def _yield_to_the_engine() -> None:
    """Run behind the engine's threads where they share cores: they come first, we catch up."""
    os.nice(5)
    with contextlib.suppress(OSError, AttributeError):  # Linux only
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
