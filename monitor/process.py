"""The monitor as a process: how it starts, and what ends it."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path

from saeguard.monitor.chat_template import read_chat_templates
from saeguard.monitor.config import Config, load_config
from saeguard.monitor.deriving import derive_apart
from saeguard.monitor.logging import logger
from saeguard.monitor.service import Service

log = logger("saeguard.monitor")


def stand_by(config: Path, tokenizer_file: str | None) -> bool:
    """Be prepared to serve, and wait until a line comes on the standard input. False: it was
    closed, because whoever might have needed a monitor is gone.

    Most of the time that a start takes is prepared for: the imports, and the model's templates.
    """
    with contextlib.suppress(Exception):  # who serves will say what is wrong
        if tokenizer_file is not None:
            instead = load_config(config).phases.chat_template
            derive_apart(tokenizer_file, read_chat_templates(Path(tokenizer_file).parent, instead))
    return bool(sys.stdin.buffer.readline())


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
    if tokenizer_file is not None:
        service.expect_model(tokenizer_file)
    announce(run_dir)
    try:
        service.run(stop)
    finally:
        service.close()


def announce(run_dir: Path) -> None:
    """Leave a file that says which process is the monitor."""
    new = run_dir / "ready.new"
    new.write_text(f"{os.getpid()}\n")
    new.replace(run_dir / "ready")


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
