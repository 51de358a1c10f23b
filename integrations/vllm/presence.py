"""Whether a monitor watches: what `fail: closed` makes serving depend on."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

import msgspec
from vllm.logger import init_logger

from saeguard.integrations.vllm.control import subscribe
from saeguard.monitor.messages import Alive, decode_control

logger = init_logger("vllm.saeguard.presence")

_POLL_MS = 1_000
_MAX_SILENT_POLLS = 3
"""A monitor that says nothing for so long is gone, or hangs. Polls are counted and not seconds:
where this whole process was held up, what was said meanwhile is still to be heard."""


class Presence:
    """Hears the monitor's signs of life on a thread of its own.

    What was known of running requests goes with the monitor that knew it: `num_losses` tells them
    from those that a later one watches from their start.
    """

    def __init__(self, control: str, closed_door: Path) -> None:
        """
        Args:
            control: endpoint where the monitor speaks.
            closed_door: file that is there while there is no monitor, and says why; for the
                server's own processes.
        """
        self.is_there = True
        self.num_losses = 0
        self._closed_door = closed_door
        self._open()
        self._lock = threading.Lock()
        self._instance: str | None = None  # of the monitor that was heard last
        self._dead: str | None = None
        self._socket = subscribe(control)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="saeguard-presence", daemon=True)

    def start(self) -> None:
        """Miss the monitor from now on: it has been waited for."""
        self._thread.start()

    def died(self) -> None:
        """The monitor process has ended: known before it is missed."""
        self._dead = self._instance
        self._lose("the monitor has ended")

    def close(self) -> None:
        self._closing.set()
        self._thread.join(2 * _POLL_MS / 1000)
        self._open()

    def _run(self) -> None:  # from here on the socket is this thread's
        num_silent = 0
        with contextlib.closing(self._socket) as socket:
            while not self._closing.is_set():
                if socket.poll(_POLL_MS):
                    num_silent = 0
                    self._hear(socket.recv())
                else:
                    num_silent += 1
                if num_silent == _MAX_SILENT_POLLS:
                    self._lose("the monitor gives no sign of life")

    def _hear(self, data: bytes) -> None:
        try:
            message = decode_control(data)
        except msgspec.MsgspecError:
            return  # the stopper, who hears the same, says so
        if not isinstance(message, Alive) or message.instance == self._dead:
            return
        if self._instance not in (None, message.instance):
            self._lose("the monitor was started anew")
        self._instance = message.instance
        if message.blind:
            self._lose(f"the monitor is blind: {message.blind}")
        elif not self.is_there:
            logger.info("saeguard: a monitor is there; serving goes on")
            self._open()
            self.is_there = True

    def _lose(self, why: str) -> None:
        with self._lock:
            if not self.is_there or self._closing.is_set():
                return
            self.num_losses += 1
            self.is_there = False
        reason = f"{why}, and the configuration says fail: closed"
        logger.error("saeguard ends all requests and refuses new ones: %s", reason)
        with contextlib.suppress(OSError):
            self._closed_door.write_text(reason)

    def _open(self) -> None:
        with contextlib.suppress(OSError):
            self._closed_door.unlink()
