"""An OTLP/HTTP receiver within the process, for tests and the demo. It can be told to fail."""

from __future__ import annotations

import contextlib
import gzip
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as logs_pb
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics_pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as trace_pb
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue


@dataclass(frozen=True)
class ReceivedLog:
    event_name: str
    severity_number: int
    body: str
    attributes: dict[str, Any]
    trace_id: str
    span_id: str
    service_name: str


@dataclass(frozen=True)
class ReceivedSpan:
    name: str
    attributes: dict[str, Any]
    trace_id: str
    span_id: str
    parent_id: str
    links: list[str]
    """Trace ids."""
    start_ns: int
    end_ns: int
    status: str


@dataclass(frozen=True)
class ReceivedMetric:
    name: str
    attributes: dict[str, Any]
    value: float


class OtlpReceiver:
    """Listens on a free port of 127.0.0.1 and keeps what it takes, in order of arrival."""

    def __init__(self) -> None:
        self.logs: list[ReceivedLog] = []
        self.spans: list[ReceivedSpan] = []
        self.metrics: list[ReceivedMetric] = []
        self.num_requests = 0
        self.delay_s = 0.0
        """Before every answer."""
        self._lock = threading.Lock()
        self._status = 200
        self._rejected: frozenset[str] = frozenset()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        self._thread.start()

    def fail_with(self, status: int) -> None:
        """Answers this status and keeps nothing, until `recover`."""
        self._status = status

    def reject(self, alert_ids: Iterable[str]) -> None:
        """Answers `partial_success` for these alerts' records and keeps the others."""
        self._rejected = frozenset(alert_ids)

    def recover(self) -> None:
        self.fail_with(200)
        self.reject(())
        self.delay_s = 0.0

    def alert_ids(self) -> list[str]:
        """Of the alert events taken so far, repeats included."""
        events = [log for log in self.logs if log.event_name == "saeguard.alert"]
        return [event.attributes["saeguard.alert.id"] for event in events]

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
        takers: dict[str, Callable[[bytes], bytes]] = {
            "/v1/logs": self._take_logs,
            "/v1/traces": self._take_spans,
            "/v1/metrics": self._take_metrics,
        }
        if path not in takers:
            return 404, b""
        if self._status != 200:
            return self._status, b""
        with self._lock:
            return 200, takers[path](body)

    def _take_logs(self, body: bytes) -> bytes:
        request = logs_pb.ExportLogsServiceRequest.FromString(body)
        received = [
            ReceivedLog(
                record.event_name,
                record.severity_number,
                record.body.string_value,
                _plain(record.attributes),
                record.trace_id.hex(),
                record.span_id.hex(),
                _plain(resource.resource.attributes)["service.name"],
            )
            for resource in request.resource_logs
            for scope in resource.scope_logs
            for record in scope.log_records
        ]
        kept = [log for log in received if self._wanted(log.attributes)]
        self.logs += kept
        reply = logs_pb.ExportLogsServiceResponse()
        reply.partial_success.rejected_log_records = len(received) - len(kept)
        return bytes(reply.SerializeToString())

    def _take_spans(self, body: bytes) -> bytes:
        request = trace_pb.ExportTraceServiceRequest.FromString(body)
        received = [
            ReceivedSpan(
                span.name,
                _plain(span.attributes),
                span.trace_id.hex(),
                span.span_id.hex(),
                span.parent_span_id.hex(),
                [link.trace_id.hex() for link in span.links],
                span.start_time_unix_nano,
                span.end_time_unix_nano,
                span.status.message,
            )
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]
        kept = [span for span in received if self._wanted(span.attributes)]
        self.spans += kept
        reply = trace_pb.ExportTraceServiceResponse()
        reply.partial_success.rejected_spans = len(received) - len(kept)
        return bytes(reply.SerializeToString())

    def _take_metrics(self, body: bytes) -> bytes:
        request = metrics_pb.ExportMetricsServiceRequest.FromString(body)
        self.metrics += [
            ReceivedMetric(metric.name, _plain(point.attributes), point.as_int or point.as_double)
            for resource in request.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            for point in (metric.sum if metric.HasField("sum") else metric.gauge).data_points
        ]
        return b""

    def _wanted(self, attributes: dict[str, Any]) -> bool:
        return attributes.get("saeguard.alert.id") not in self._rejected


def _plain(attributes: Sequence[KeyValue]) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in attributes}


def _value(value: AnyValue) -> Any:
    if value.HasField("array_value"):
        return [_value(item) for item in value.array_value.values]
    return getattr(value, value.WhichOneof("value") or "string_value")
