"""Where vLLM's processes put their messages."""

from __future__ import annotations

from collections import deque

import zmq

BATCH = 256
"""Messages that are taken at once."""
_MAX_IN_SOCKET = 16 * BATCH
"""Of each sender. A frame may have 2 MB, and ZeroMQ counts messages only, so its queue is short.
But when a sender ends while it is full, ZeroMQ loses what is on its way.
"""
_MAX_BYTES = 256 << 20


class Inbox:
    """A socket that they push to. For one thread.

    Whenever messages are taken, all that have come are taken in, up to a number of bytes. What
    finds no room waits with its sender, who drops and counts what is too much for him.
    """

    def __init__(
        self, endpoint: str, max_bytes: int = _MAX_BYTES, max_in_socket: int = _MAX_IN_SOCKET
    ) -> None:
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self.is_empty = True
        """Whether the last messages that were taken were all that had come."""
        self._waiting: deque[bytes] = deque()
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PULL)
        self._socket.setsockopt(zmq.RCVHWM, max_in_socket)
        self._socket.bind(endpoint)

    def wait(self, timeout_s: float) -> bool:
        """Whether there is something."""
        return bool(self._waiting or self._socket.poll(int(timeout_s * 1000)))

    def take(self) -> list[bytes]:
        """What is there, at most `BATCH` messages, in the order in which they came."""
        while self._num_bytes < self._max_bytes:
            try:
                self._waiting.append(self._socket.recv(zmq.NOBLOCK))
            except zmq.Again:
                break
            self._num_bytes += len(self._waiting[-1])
        is_bounded = self._num_bytes >= self._max_bytes
        messages = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
        self.is_empty = not (is_bounded or self._waiting)
        self._num_bytes -= sum(map(len, messages))
        return messages

    def close(self) -> None:
        self._socket.close()
