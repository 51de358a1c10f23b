"""Hands messages to the monitor without ever blocking the engine's thread.

A ZeroMQ socket only appends to a queue in memory: the writing is done by ZeroMQ's own thread, which
needs no interpreter lock. What does not fit is dropped and counted in `num_dropped`; the next frame
carries the count, and the monitor's ledger shows the gap.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable
from functools import cached_property
from typing import Protocol

import zmq
from vllm.logger import init_logger
from zmq.utils.monitor import recv_monitor_message

from saeguard.monitor.messages import FrameArrays, Message, encode

logger = init_logger("vllm.saeguard.outbox")

Build = Callable[[], tuple[Message, FrameArrays | None]]

_LINGER_MS = 2_000
"""How long a closed socket goes on sending what it has."""


class Outbox(Protocol):
    """Takes messages, in order, from one thread."""

    @property
    def num_dropped(self) -> int: ...

    def post(self, build: Build) -> None:
        """Send what `build` makes. Never waits, never raises."""

    def close(self) -> None:
        """Send what was taken, for a bounded time."""


class Connection:
    """Whether anybody is at the other end of a socket, by the socket's own account. For the thread
    that the socket belongs to.
    """

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self._events = socket.get_monitor_socket(
            zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
        )
        self._is_up = True  # what is sent before the first connection arrives with it
        self._is_new = False

    @property
    def is_up(self) -> bool:
        """False from when it broke until there is another one."""
        self._take_in()
        return self._is_up

    def is_new(self) -> bool:
        """Whether there is another one since this was asked the last time."""
        self._take_in()
        is_new, self._is_new = self._is_new, False
        return is_new

    def _take_in(self) -> None:
        while int(self._events.get(zmq.EVENTS)) & zmq.POLLIN:
            event = recv_monitor_message(self._events)["event"]
            self._is_up = event == zmq.EVENT_HANDSHAKE_SUCCEEDED
            self._is_new |= self._is_up


class DirectOutbox:
    """Builds and sends on the caller's thread: no other thread is woken, no lock is fought for."""

    def __init__(self, endpoint: str, max_pending: int = 10_000) -> None:
        self.num_dropped = 0
        self._has_failed = False
        # The process's one context: a context of our own would wait for its sockets when the
        # garbage collector comes for it, and that may be on the engine's thread.
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PUSH)
        self._socket.setsockopt(zmq.SNDHWM, max_pending)
        self._socket.setsockopt(zmq.LINGER, _LINGER_MS)
        self._socket.connect(endpoint)

    @cached_property
    def connection(self) -> Connection:
        """To the monitor; from when it is first asked for."""
        return Connection(self._socket)

    def post(self, build: Build) -> None:
        try:
            self._socket.send(encode(*build()), zmq.NOBLOCK)
        except zmq.Again:
            if not self.num_dropped:
                logger.error("saeguard: the monitor does not keep up, messages are being dropped")
            self.num_dropped += 1
        except Exception:  # a fault of ours, which must not reach the engine
            self.num_dropped += 1
            if not self._has_failed:
                logger.exception("saeguard could not send a message; serving goes on")
            self._has_failed = True

    def close(self) -> None:
        self._socket.disable_monitor()
        self._socket.close()


class ThreadedOutbox:
    """Builds and sends on a thread of its own: for messages that must wait for a device."""

    def __init__(self, endpoint: str, max_pending: int = 10_000) -> None:
        self._direct = DirectOutbox(endpoint, max_pending)
        self._max_pending = min(max_pending, 64)  # they hold pinned memory
        self._num_refused = 0
        self._queue: queue.SimpleQueue[Build | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="saeguard-outbox", daemon=True)
        self._thread.start()

    @property
    def num_dropped(self) -> int:
        return self._num_refused + self._direct.num_dropped

    def post(self, build: Build) -> None:
        if self._queue.qsize() < self._max_pending:
            self._queue.put(build)
        else:
            self._num_refused += 1

    def close(self) -> None:
        self._queue.put(None)
        self._thread.join(_LINGER_MS / 1000)

    def _run(self) -> None:  # from here on the socket is this thread's
        while (build := self._queue.get()) is not None:
            self._direct.post(build)
        with contextlib.suppress(zmq.ZMQError):
            self._direct.close()
