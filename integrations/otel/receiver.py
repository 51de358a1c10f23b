"""An OTLP/HTTP receiver within the process, for tests and the demo. It can be told to fail."""

from __future__ import annotations

import contextlib
import gzip
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from saeguard.integrations.otel.http_transport import METHODS
from saeguard.integrations.otel.received import Received


class OtlpReceiver(Received):
    """Listens on a free port of 127.0.0.1 and keeps what it takes."""

    def __init__(self) -> None:
        super().__init__()
        self.num_requests = 0
        self.delay_s = 0.0
        """Before every answer."""
        self._status = 200
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        self._thread.start()

    def fail_with(self, status: int) -> None:
        """Answers this status and keeps nothing, until `recover`."""
        self._status = status

    def recover(self) -> None:
        self.fail_with(200)
        self.reject(())
        self.delay_s = 0.0

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers["Content-Encoding"] == "gzip":
                    body = gzip.decompress(body)
                status, reply = receiver._answer(self.path, body)
                with contextlib.suppress(ConnectionError):  # the client has given up waiting
                    self.send_response(status)
                    self.send_header("Content-Type", "application/x-protobuf")
                    self.send_header("Content-Length", str(len(reply)))
                    self.end_headers()
                    self.wfile.write(reply)

            def log_message(self, format: str, *args: Any) -> None:
                """Silent."""

        return Handler

    def _answer(self, path: str, body: bytes) -> tuple[int, bytes]:
        self.num_requests += 1
        time.sleep(self.delay_s)
        takers: dict[str, Callable[[Any], Any]] = {
            "/v1/logs": self.take_logs,
            "/v1/traces": self.take_spans,
            "/v1/metrics": self.take_metrics,
        }
        request_types = {path: request for request, (path, _) in METHODS.items()}
        if path not in takers:
            return 404, b""
        if self._status != 200:
            return self._status, b""
        reply = takers[path](request_types[path].FromString(body))
        return 200, reply.SerializeToString()
