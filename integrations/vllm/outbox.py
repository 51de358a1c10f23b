"""Hands messages to the monitor without ever blocking the engine's thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any

import zmq

Parts = Sequence[Any]


class Outbox:
    """A bounded queue, a thread that turns its items into bytes, and a ZeroMQ PUSH socket.

    `post` costs one queue append on the caller's thread. What cannot be queued or sent is
    dropped and counted in `num_dropped`; the next frame carries the count, so that the monitor's
    ledger shows the gap.
    """

    def __init__(self, endpoint: str, max_pending: int = 4096) -> None:
        self.num_dropped = 0
        self._endpoint = endpoint
        self._queue: queue.Queue[Callable[[], Parts] | None] = queue.Queue(max_pending)
        self._thread = threading.Thread(target=self._run, name="saeguard-outbox", daemon=True)
        self._thread.start()

    def post(self, build: Callable[[], Parts]) -> None:
        """Queue a message; `build` makes its parts on the outbox's own thread."""
        try:
            self._queue.put_nowait(build)
        except queue.Full:
            self.num_dropped += 1

    def close(self, timeout_s: float = 2.0) -> None:
        """Send what is queued, then stop."""
        try:
            self._queue.put(None, timeout=timeout_s)
        except queue.Full:
            return
        self._thread.join(timeout_s)

    def _run(self) -> None:
        context = zmq.Context()
        socket = context.socket(zmq.PUSH)
        socket.setsockopt(zmq.SNDHWM, 10_000)
        socket.setsockopt(zmq.LINGER, 2_000)  # milliseconds to flush at the end
        socket.connect(self._endpoint)
        while (build := self._queue.get()) is not None:
            try:
                socket.send_multipart(build(), zmq.NOBLOCK, copy=False)
            except Exception:  # a full socket, or a fault of ours: neither may reach the engine
                self.num_dropped += 1
        socket.close()
        context.term()
