"""The way back: what the monitor says to vLLM's processes."""

from __future__ import annotations

import zmq

from saeguard.monitor.messages import Control, encode_control


class ControlChannel:
    """Tells every worker and EngineCore that listens on `endpoint`.

    Who is not connected at that moment hears nothing, so whatever matters is said until it is
    answered.
    """

    def __init__(self, endpoint: str) -> None:
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PUB)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.bind(endpoint)

    def send(self, message: Control) -> None:
        """Never waits: a listener that does not keep up misses it."""
        self._socket.send(encode_control(message), zmq.NOBLOCK)

    def close(self) -> None:
        self._socket.close()
