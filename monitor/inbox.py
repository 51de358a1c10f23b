"""Where vLLM's processes put their messages."""

from __future__ import annotations

import contextlib

import zmq

BATCH = 256
"""Messages that are taken at once."""
_MAX_WAITING = 10_000


class Inbox:
    """A socket that they push to. For one thread."""

    def __init__(self, endpoint: str) -> None:
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PULL)
        self._socket.setsockopt(zmq.RCVHWM, _MAX_WAITING)
        self._socket.bind(endpoint)

    def wait(self, timeout_s: float) -> bool:
        """Whether there is something."""
        return bool(self._socket.poll(int(timeout_s * 1000)))

    def take(self) -> list[bytes]:
        """What is there, at most `BATCH` messages."""
        messages: list[bytes] = []
        with contextlib.suppress(zmq.Again):
            while len(messages) < BATCH:
                messages.append(self._socket.recv(zmq.NOBLOCK))
        return messages

    def close(self) -> None:
        self._socket.close()
