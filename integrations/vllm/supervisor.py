"""Starts the monitor process, keeps it running, and stops it with the engine; or waits for one that
is started by hand.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from vllm.logger import init_logger

from saeguard.monitor.config import Config
from saeguard.monitor.errors import ConfigError

logger = init_logger("vllm.saeguard.supervisor")

_MIN_BACKOFF_S = 0.5
_MAX_BACKOFF_S = 30.0
_STEADY_S = 60.0
"""A monitor that ran for so long is started again at once when it dies, as the first one is."""
_USAGE_ERROR = 2
_PATIENCE_S = 30.0


def ensure_monitor(
    config: Config,
    run_dir: Path,
    tokenizer_file: str | None,
    on_death: Callable[[], None] | None = None,
    patience_s: float = _PATIENCE_S,
    is_first: bool = True,
) -> MonitorProcess | None:
    """Start the monitor, unless somebody else does, and wait for it: nothing is served yet, and the
    first request should not be the one that is not seen.

    Args:
        run_dir: where it listens.
        tokenizer_file: of the model that is going to be served.
        on_death: called, on another thread, each time that the monitor ends of itself.
        is_first: whether no other engine starts it.

    Raises:
        ConfigError: it is not there in time, and the configuration says `fail: closed`.
    """
    monitor = None
    if config.start_monitor and is_first:
        monitor = MonitorProcess(config.path, run_dir, tokenizer_file, on_death)
        is_ready = monitor.wait_until_ready(patience_s)
        remedy = "its log says why"
    else:
        is_ready = _becomes_true(lambda: is_listening(run_dir), patience_s)
        by_hand = f"run: saeguard monitor --config {config.path}"
        remedy = "its log says why" if config.start_monitor else by_hand
    if is_ready:
        return monitor
    if config.fail == "closed":
        raise ConfigError("there is no monitor, and the configuration says fail: closed", remedy)
    logger.error("saeguard: there is no monitor (%s); serving goes on without it", remedy)
    return monitor


def is_listening(run_dir: Path) -> bool:
    """Whether a monitor takes messages there: what a dead one has left behind is none."""
    with socket.socket(socket.AF_UNIX) as inbox:
        return inbox.connect_ex(str(run_dir / "inbox")) == 0


class MonitorProcess:
    """The monitor as a child process, and another one that stands by to take its place when it
    dies: a start takes a second of CPU time, most of it for imports, and at full load that is long.

    Restarted with backoff; given up only when it refuses the configuration that it is started with.
    """

    def __init__(
        self,
        config: Path,
        run_dir: Path,
        tokenizer_file: str | None = None,
        on_death: Callable[[], None] | None = None,
    ) -> None:
        self._run_dir = run_dir
        self._on_death = on_death
        # -P: a `monitor/` folder where the server was started must not shadow anything.
        self._command = [
            sys.executable, "-P", "-m", "saeguard.monitor",
            "--config", str(config), "--run-dir", str(run_dir), "--parent", str(os.getpid()),
        ]  # fmt: skip
        if tokenizer_file is not None:
            self._command += ["--tokenizer-file", tokenizer_file]
        self._stopping = threading.Event()
        self._refused = threading.Event()
        self._next: subprocess.Popen[bytes] | None = None
        self._process = self._start()
        self._thread = threading.Thread(target=self._watch, name="saeguard-supervisor", daemon=True)
        self._thread.start()

    def wait_until_ready(self, timeout_s: float = _PATIENCE_S) -> bool:
        """Return once the monitor listens: what is computed before may not reach it. False where
        it refused its configuration, or did not come up in time.
        """
        ready = self._run_dir / "ready"
        _becomes_true(lambda: ready.exists() or self._refused.is_set(), timeout_s)
        return ready.exists()

    def stop(self, timeout_s: float = 10.0) -> None:
        """Let the monitor drain what it has, then end it."""
        self._stopping.set()
        self._process.terminate()
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            logger.error("the monitor did not drain within %.0f s; killing it", timeout_s)
            self._process.kill()
            self._process.wait()
        self._thread.join()
        for process in (self._process, self._next):  # what was started while we waited
            if process is not None:
                process.kill()
                process.wait()
        for name in ("inbox", "control", "ready"):
            (self._run_dir / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._run_dir.rmdir()  # unless it holds what is not ours

    def _start(self) -> subprocess.Popen[bytes]:
        with contextlib.suppress(OSError):
            (self._run_dir / "ready").unlink()
        prepared, self._next = self._next, None
        if prepared is not None and prepared.poll() is None:
            with contextlib.suppress(OSError):
                assert prepared.stdin is not None
                with prepared.stdin as begin:
                    begin.write(b"begin\n")
                return prepared
        return self._spawn()

    def _spawn(self, *more: str) -> subprocess.Popen[bytes]:
        # A group of its own: Ctrl-C is for the server, which then lets the monitor drain. Not a
        # session: Linux shares out the processor by sessions (autogroup), and one that only wakes
        # now and then has been seen to wait for seconds beside an engine that always spins.
        stdin = subprocess.PIPE if more else subprocess.DEVNULL
        return subprocess.Popen([*self._command, *more], stdin=stdin, process_group=0)

    def _prepare_next(self) -> None:
        """Not before the monitor itself is ready, which would be longer otherwise."""
        ready = self._run_dir / "ready"
        is_over = self._stopping.is_set
        _becomes_true(
            lambda: ready.exists() or is_over() or self._process.poll() is not None, _PATIENCE_S
        )
        if ready.exists() and not is_over():
            self._next = self._spawn("--stand-by")

    def _watch(self) -> None:
        backoff_s, was_ready = 0.0, False
        while not self._stopping.is_set():
            began_s = time.monotonic()
            self._prepare_next()
            code = self._process.wait()
            if self._stopping.is_set():
                return
            if self._on_death is not None:
                self._on_death()
            was_ready |= (self._run_dir / "ready").exists()
            if time.monotonic() - began_s > _STEADY_S:
                backoff_s = 0.0
            # It has said why, and would again: unless its files have been good before.
            if code == _USAGE_ERROR and not was_ready:
                self._refused.set()
                logger.error(
                    "saeguard is BLIND: the monitor refused its configuration. Serving goes on."
                )
                return
            logger.error("the monitor ended with code %s; restarting in %.1f s", code, backoff_s)
            self._stopping.wait(backoff_s)
            backoff_s = min(max(2 * backoff_s, _MIN_BACKOFF_S), _MAX_BACKOFF_S)
            if not self._stopping.is_set():
                self._process = self._start()


def _becomes_true(condition: Callable[[], bool], timeout_s: float) -> bool:
    deadline_s = time.monotonic() + timeout_s
    while not (is_true := condition()) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    return is_true
