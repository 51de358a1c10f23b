"""The OTLP destination: each alert as a log event and as a span.

The bytes are the exporters' own encoding, but we send them ourselves: the exporters read neither
`partial_success` nor tell a refusal from an outage, and a sender that acknowledges needs both.
There is no tracer provider here, so no sampler can drop an alert and nothing global is touched.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from opentelemetry import trace
from opentelemetry._logs import LogRecord
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from saeguard.integrations.http import Seconds
from saeguard.integrations.otel import mapping
from saeguard.integrations.otel.transport import OtlpProtocol, connect
from saeguard.monitor.alerts import Alert
from saeguard.monitor.delivery import DeliveryError
from saeguard.monitor.errors import ConfigError
from saeguard.monitor.secrets import Headers

SCOPE = InstrumentationScope("saeguard")
Signal = Literal["logs", "traces"]
Parenting = Literal["root", "child", "auto"]
_NO_SUCH_PATH = (404, 405)
SAMPLED = trace.TraceFlags(trace.TraceFlags.SAMPLED)


class OtlpDestination:
    """Delivers to one collector or backend that speaks OTLP.

    Args:
        endpoint: with `protocol: http` the base, such as `http://localhost:4318`, to which
            `/v1/logs` and `/v1/traces` are added; with `grpc` host and port, as in
            `http://localhost:4317`. `https://` is for TLS with either.
        ca_file: with the certificates to trust, in place of the system's.
        signals: which of logs and traces it takes; Phoenix, for one, takes no logs.
        parenting: `root`: the alert's span is one of its own, linked to the client's; `child`: it
            is in the client's trace, where there is one; `auto`: where the client's is sampled. A
            child whose parent is in another backend is not shown by most tools.
    """

    def __init__(
        self,
        endpoint: str,
        protocol: OtlpProtocol = "http",
        headers: Headers | None = None,
        timeout_s: Seconds = 5.0,
        ca_file: Path | None = None,
        signals: Sequence[Signal] = ("logs", "traces"),
        service_name: str = "saeguard",
        parenting: Parenting = "root",
    ) -> None:
        if not signals:
            raise ConfigError("the OTLP destination has no signals", "use logs, traces or both")
        self._transport = connect(protocol, endpoint, headers, timeout_s, ca_file)
        self._endpoint = endpoint.rstrip("/")
        self._signals = signals
        self._parenting = parenting
        # The second is Phoenix's: alerts are in a project of their own.
        self._resource = Resource(
            {"service.name": service_name, "openinference.project.name": service_name}
        )

    @property
    def name(self) -> str:
        return f"otlp:{self._endpoint}"

    def deliver(self, alerts: Sequence[Alert]) -> None:
        if "logs" in self._signals:
            logs = encode_logs(
                [log_record(alert, self._resource, self._parent(alert)) for alert in alerts]
            )
            answer = self._send_logs(logs).partial_success
            _require_all(answer.rejected_log_records, answer.error_message)
        if "traces" in self._signals:
            spans = encode_spans(
                [span(alert, self._resource, self._parent(alert)) for alert in alerts]
            )
            answer = self._transport.send(spans).partial_success
            _require_all(answer.rejected_spans, answer.error_message)

    def close(self) -> None:
        self._transport.close()

    def _send_logs(self, request: Any) -> Any:
        try:
            return self._transport.send(request)
        except DeliveryError as error:
            if getattr(error.__cause__, "code", None) not in _NO_SUCH_PATH:
                raise
            remedy = "if it takes no logs, as Phoenix, give this destination signals: [traces]"
            raise DeliveryError(f"{error}; {remedy}", retriable=error.retriable) from error

    def _parent(self, alert: Alert) -> trace.SpanContext | None:
        """The client's span, where the alert's is to be a child of it."""
        client = _client_span(alert)
        if client is None or self._parenting == "root":
            return None
        return client if self._parenting == "child" or client.trace_flags.sampled else None


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
        name=alert.rule_name,
        context=_span_context(alert, parent),
        parent=parent,
        resource=resource,
        attributes=mapping.span_attributes(alert),
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
