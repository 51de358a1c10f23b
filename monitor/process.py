"""The monitor as a process: how it starts, what ends it, and how it shares the machine."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

from saeguard.monitor.config import Config
from saeguard.monitor.logging import logger
from saeguard.monitor.service import Service

log = logger("saeguard.monitor")


def serve(
    config: Config, run_dir: Path, parent: int | None = None, tokenizer_file: str | None = None
) -> None:
    """Run the monitor until it is told to stop.

    Args:
        run_dir: where its sockets are made.
        parent: id of the process that starts it, and without which it ends.
        tokenizer_file: of the model whose requests are expected, to be read before they come.

    Raises:
        SaeguardError: it cannot start as configured.
    """
    stop = Stop(parent)
    os.environ["SAEGUARD_LOG"] = config.log
    service = Service(config, run_dir)
    if not service.can_stop:
        _yield_to_the_engine()
    if tokenizer_file is not None:
        service.expect_model(tokenizer_file)
    (run_dir / "ready").touch()
    try:
        service.run(stop)
    finally:
        service.close()


class Stop:
    """True once a signal has asked us to end, or the process that we work for is gone."""

    def __init__(self, parent: int | None) -> None:
        self._reason = ""
        self._parent = parent
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def __call__(self) -> bool:
        if self._parent not in (None, os.getppid()):
            self._reason = f"process {self._parent} has ended"
        if self._reason:
            log.info("ending", reason=self._reason)
        return bool(self._reason)

    def _on_signal(self, number: int, _: object) -> None:
        self._reason = signal.Signals(number).name


def _yield_to_the_engine() -> None:
    """Run behind the engine's threads where they share cores: they come first, we catch up."""
    with contextlib.suppress(OSError, AttributeError):  # Linux only
        for thread in Path("/proc/self/task").iterdir():
            os.setpriority(os.PRIO_PROCESS, int(thread.name), 5)
            os.sched_setscheduler(int(thread.name), os.SCHED_BATCH, os.sched_param(0))
