"""OTLP over HTTP: protobuf, gzipped, one path for each signal."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as logs
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as trace

from saeguard.integrations.http import HttpClient, Reply
from saeguard.monitor.delivery import DeliveryError
from saeguard.monitor.secrets import Headers

METHODS: dict[Any, tuple[str, Any]] = {
    logs.ExportLogsServiceRequest: ("/v1/logs", logs.ExportLogsServiceResponse),
    trace.ExportTraceServiceRequest: ("/v1/traces", trace.ExportTraceServiceResponse),
    metrics.ExportMetricsServiceRequest: ("/v1/metrics", metrics.ExportMetricsServiceResponse),
}
"""Path and type of the reply, for each type of request."""

_CONTENT_TYPE = "application/x-protobuf"
_HEADERS = {"Content-Type": _CONTENT_TYPE, "Content-Encoding": "gzip"}


class HttpTransport:
    """To a server's base URL, such as `http://localhost:4318`."""

    def __init__(
        self,
        endpoint: str,
        headers: Headers | None,
        timeout_s: float,
        ca_file: Path | None,
    ) -> None:
        self._endpoint = endpoint
        self._client = HttpClient(headers, timeout_s, ca_file)

    def send(self, request: Any) -> Any:
        path, reply_type = METHODS[type(request)]
        url = self._endpoint + path
        body = gzip.compress(request.SerializeToString(), compresslevel=1)
        reply = self._client.post(url, body, _HEADERS)
        try:
            return reply_type.FromString(_protobuf(url, reply))
        except DecodeError as error:
            raise DeliveryError(f"{url}: the reply is not OTLP", retriable=True) from error

    def close(self) -> None:
        """Nothing is held open."""


def _protobuf(url: str, reply: Reply) -> bytes:
    """Of a reply; nothing where the server answers in JSON or with nothing."""
    if reply.content_type == _CONTENT_TYPE:
        return reply.body
    if reply.body and reply.content_type != "application/json":
        # A login page or a wrong port may answer 200 too.
        raise DeliveryError(
            f"{url}: answers {reply.content_type}, so it is no OTLP server", retriable=True
        )
    return b""
