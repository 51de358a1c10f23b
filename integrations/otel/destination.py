"""The OTLP destination: each alert as a log event and as a span, posted over HTTP.

The bytes are the exporters' own encoding, but we post them ourselves: the exporters read neither
`partial_success` nor tell a refusal from an outage, and a sender that acknowledges needs both.
There is no tracer provider here, so no sampler can drop an alert and nothing global is touched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from opentelemetry import trace
from opentelemetry._logs import LogRecord
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from saeguard.integrations.otel import mapping
from saeguard.integrations.otel.transport import check_endpoint, post
from saeguard.monitor.alerts import Alert
from saeguard.monitor.delivery import DeliveryError
from saeguard.monitor.errors import ConfigError

SCOPE = InstrumentationScope("saeguard")
SIGNALS = ("logs", "traces")
PARENTINGS = ("root", "child", "auto")
SAMPLED = trace.TraceFlags(trace.TraceFlags.SAMPLED)


class OtlpDestination:
    """Delivers to one collector or backend that speaks OTLP/HTTP.

    Args:
        endpoint: its base, such as `http://localhost:4318`; `/v1/logs` and `/v1/traces` are added.
        signals: which of logs and traces it takes; Phoenix, for one, takes no logs.
        parenting: `root`: the alert's span is one of its own, linked to the client's; `child`: it
            is in the client's trace, where there is one; `auto`: where the client's is sampled. A
            child whose parent is in another backend is not shown by most tools.
    """

    def __init__(
        self,
        endpoint: str,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 5.0,
        signals: Sequence[str] = SIGNALS,
        service_name: str = "saeguard",
        parenting: str = "root",
    ) -> None:
        if parenting not in PARENTINGS:
            raise ConfigError(f"unknown parenting {parenting!r}", f"use {', '.join(PARENTINGS)}")
        if not signals or not set(signals) <= set(SIGNALS):
            raise ConfigError(f"unknown OTLP signals {list(signals)}", "use logs, traces or both")
        self._endpoint = check_endpoint(endpoint)
        self._headers = dict(headers or {})
        self._timeout_s = timeout_s
        self._signals = signals
        self._parenting = parenting
        self._resource = Resource({"service.name": service_name})

    @property
    def name(self) -> str:
        return f"otlp:{self._endpoint}"

    def deliver(self, alerts: Sequence[Alert]) -> None:
        if "logs" in self._signals:
            logs = encode_logs(
                [log_record(alert, self._resource, self._parent(alert)) for alert in alerts]
            )
            answer = self._post("/v1/logs", logs, ExportLogsServiceResponse)
            _require_all(answer.rejected_log_records, answer.error_message)
        if "traces" in self._signals:
            spans = encode_spans(
                [span(alert, self._resource, self._parent(alert)) for alert in alerts]
            )
            answer = self._post("/v1/traces", spans, ExportTraceServiceResponse)
            _require_all(answer.rejected_spans, answer.error_message)

    def close(self) -> None:
        """Nothing is held open."""

    def _parent(self, alert: Alert) -> trace.SpanContext | None:
        """The client's span, where the alert's is to be a child of it."""
        client = _client_span(alert)
        if client is None or self._parenting == "root":
            return None
        return client if self._parenting == "child" or client.trace_flags.sampled else None

    def _post(self, path: str, request: Any, reply_type: Any) -> Any:
        """The `partial_success` of the reply."""
        url = self._endpoint + path
        reply = post(url, request.SerializeToString(), self._headers, self._timeout_s)
        try:
            return reply_type.FromString(reply).partial_success
        except DecodeError as error:
            raise DeliveryError(f"{url}: the reply is not OTLP", retriable=True) from error


def log_record(
    alert: Alert, resource: Resource, parent: trace.SpanContext | None
) -> ReadableLogRecord:
    """The alert as the event `saeguard.alert`, tied to the span of `span`."""
    context = _span_context(alert, parent)
    record = LogRecord(
        event_name="saeguard.alert",
        timestamp=alert.time_ns,
        observed_timestamp=alert.time_ns,
        context=trace.set_span_in_context(trace.NonRecordingSpan(context)),
        severity_number=mapping.SEVERITY_NUMBERS[alert.severity],
        severity_text=alert.severity.upper(),
        body=alert.message,
        attributes=mapping.attributes(alert),
    )
    return ReadableLogRecord(record, resource, SCOPE)


def span(alert: Alert, resource: Resource, parent: trace.SpanContext | None) -> ReadableSpan:
    """The alert as a finished span: a child of the parent, or a root with a link to the client's
    span.
    """
    client = _client_span(alert)
    return ReadableSpan(
        name=f"saeguard.alert {alert.rule_name}",
        context=_span_context(alert, parent),
        parent=parent,
        resource=resource,
        attributes=mapping.attributes(alert),
        links=[trace.Link(client)] if client and not parent else [],
        status=trace.Status(trace.StatusCode.ERROR, alert.rule_title),
        start_time=min(alert.forward_time_ns, alert.time_ns),
        end_time=alert.time_ns,
        instrumentation_scope=SCOPE,
    )


def _span_context(alert: Alert, parent: trace.SpanContext | None) -> trace.SpanContext:
    trace_id = parent.trace_id if parent else mapping.trace_id(alert.id)
    span_id = mapping.span_id(alert.id)
    return trace.SpanContext(trace_id, span_id, is_remote=False, trace_flags=SAMPLED)


def _client_span(alert: Alert) -> trace.SpanContext | None:
    context = TraceContextTextMapPropagator().extract(alert.trace_headers or {})
    client = trace.get_current_span(context).get_span_context()
    return client if client.is_valid else None


def _require_all(num_rejected: int, message: str) -> None:
    if num_rejected:
        raise DeliveryError(f"{num_rejected} rejected: {message}", retriable=False)
