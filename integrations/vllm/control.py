"""Hears and answers the monitor, on a thread of its own: the engine's thread has no part in it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

import msgspec
import zmq
from vllm.logger import init_logger

from saeguard.integrations.vllm.outbox import DirectOutbox
from saeguard.monitor.messages import Control, Message, decode_control

logger = init_logger("vllm.saeguard.control")

Act = Callable[[Control], Message | None]
SayAgain = Callable[[], Message | None]

_POLL_MS = 500  # how long `close` may have to wait
_RECONNECT_MAX_MS = 1_000


def subscribe(control: str) -> zmq.Socket[bytes]:
    """A socket that receives all that the monitor says at this endpoint, whenever it starts."""
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.SUB)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, _RECONNECT_MAX_MS)
    socket.subscribe(b"")
    socket.connect(control)
    return socket


class ControlListener:
    """From `start` on, calls a function with every message of the monitor, one after another, and
    sends what it returns to the monitor's inbox.

    What cannot be read is counted in `num_unreadable`; a failure of the function ends nothing.
    """

    def __init__(self, control: str, inbox: str) -> None:
        self.num_unreadable = 0
        self._socket = subscribe(control)
        self._outbox = DirectOutbox(inbox)
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, act: Act, say_again: SayAgain = lambda: None) -> None:
        """
        Args:
            say_again: what a monitor has to hear that has come back, if anything.
        """
        if self._thread is not None:
            return
        self._thread = threading.Thread(
            target=self._run, args=(act, say_again), name="saeguard-control", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        if self._thread is None:
            self._socket.close()
            self._outbox.close()
        else:
            self._thread.join(2 * _POLL_MS / 1000)

    def _run(self, act: Act, say_again: SayAgain) -> None:  # the sockets are now this thread's
        with contextlib.closing(self._socket) as socket, contextlib.closing(self._outbox):
            connection = self._outbox.connection
            while not self._closing.is_set():
                if connection.is_new():
                    self._send(say_again())
                if socket.poll(_POLL_MS):
                    self._hear(socket.recv(), act)

    def _hear(self, data: bytes, act: Act) -> None:
        try:
            message = decode_control(data)
        except msgspec.MsgspecError as error:
            if not self.num_unreadable:
                logger.error("saeguard: the monitor said what cannot be read: %s", error)
            self.num_unreadable += 1
            return
        try:
            reply = act(message)
        except Exception:
            logger.exception("saeguard failed at a message of the monitor; serving goes on")
            return
        self._send(reply)

    def _send(self, message: Message | None) -> None:
        if message is not None:
            self._outbox.post(lambda: (message, None))
