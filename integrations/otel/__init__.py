"""Alerts and metrics over OpenTelemetry (OTLP/HTTP), apart from what the host process sets up."""

from saeguard.integrations.otel.destination import OtlpDestination
from saeguard.integrations.otel.metrics import OtlpMetrics
from saeguard.integrations.otel.receiver import OtlpReceiver

__all__ = ["OtlpDestination", "OtlpMetrics", "OtlpReceiver"]
