"""What an OTLP receiver has taken, whichever way it came: for tests and the demo."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

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


@dataclass(frozen=True)
class ReceivedHistogram:
    name: str
    attributes: dict[str, Any]
    bounds: list[float]
    counts: list[int]
    sum: float


class Received:
    """Logs, spans and metrics in order of arrival."""

    def __init__(self) -> None:
        self.logs: list[ReceivedLog] = []
        self.spans: list[ReceivedSpan] = []
        self.metrics: list[ReceivedMetric] = []
        self.histograms: list[ReceivedHistogram] = []
        self._lock = threading.Lock()
        self._rejected: frozenset[str] = frozenset()

    def reject(self, alert_ids: Iterable[str]) -> None:
        """Answer `partial_success` for these alerts' records and keep the others."""
        self._rejected = frozenset(alert_ids)

    def alert_ids(self) -> list[str]:
        """Of the alert events taken so far, repeats included."""
        events = [log for log in self.logs if log.event_name == "saeguard.alert"]
        return [event.attributes["saeguard.alert.id"] for event in events]

    def take_logs(
        self, request: logs_pb.ExportLogsServiceRequest
    ) -> logs_pb.ExportLogsServiceResponse:
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
        kept = [log for log in received if self._wants(log.attributes)]
        with self._lock:
            self.logs += kept
        reply = logs_pb.ExportLogsServiceResponse()
        reply.partial_success.rejected_log_records = len(received) - len(kept)
        return reply

    def take_spans(
        self, request: trace_pb.ExportTraceServiceRequest
    ) -> trace_pb.ExportTraceServiceResponse:
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
        kept = [span for span in received if self._wants(span.attributes)]
        with self._lock:
            self.spans += kept
        reply = trace_pb.ExportTraceServiceResponse()
        reply.partial_success.rejected_spans = len(received) - len(kept)
        return reply

    def take_metrics(
        self, request: metrics_pb.ExportMetricsServiceRequest
    ) -> metrics_pb.ExportMetricsServiceResponse:
        metrics = [
            metric
            for resource in request.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        ]
        numbers = [
            ReceivedMetric(metric.name, _plain(point.attributes), point.as_int or point.as_double)
            for metric in metrics
            for point in (metric.sum if metric.HasField("sum") else metric.gauge).data_points
        ]
        histograms = [
            ReceivedHistogram(
                metric.name,
                _plain(point.attributes),
                list(point.explicit_bounds),
                list(point.bucket_counts),
                point.sum,
            )
            for metric in metrics
            for point in metric.histogram.data_points
        ]
        with self._lock:
            self.metrics += numbers
            self.histograms += histograms
        return metrics_pb.ExportMetricsServiceResponse()

    def _wants(self, attributes: dict[str, Any]) -> bool:
        return attributes.get("saeguard.alert.id") not in self._rejected


def _plain(attributes: Sequence[KeyValue]) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in attributes}


def _value(value: AnyValue) -> Any:
    if value.HasField("array_value"):
        return [_value(item) for item in value.array_value.values]
    return getattr(value, value.WhichOneof("value") or "string_value")
