"""Counters and gauges over OTLP, read from the monitor's totals by a private meter provider.

They are not queued: what counts since the start is in the next request as well.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    MetricExporter,
    MetricExportResult,
    MetricsData,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.resources import Resource

from saeguard.integrations.otel.transport import OtlpProtocol, Transport, connect
from saeguard.monitor.delivery import DeliveryError
from saeguard.monitor.logging import logger
from saeguard.monitor.metric_names import COUNTERS, GAUGES, Labels, Totals, series

_COLLECTION_S = 0.05
"""A collection asks for every metric by itself, all within this time."""

log = logger(__name__)


class OtlpMetrics:
    """Sends `saeguard.*` metrics every `interval_s` seconds.

    A series exists from the first time that its key is in the totals. List every rule there with 0
    from the start, or the first alert is no increase in the eyes of Prometheus.
    """

    def __init__(
        self,
        endpoint: str,
        totals: Totals,
        protocol: OtlpProtocol = "http",
        headers: Mapping[str, str] | None = None,
        interval_s: float = 10.0,
        timeout_s: float = 5.0,
        ca_file: Path | None = None,
        service_name: str = "saeguard",
    ) -> None:
        exporter = _Exporter(connect(protocol, endpoint, headers, timeout_s, ca_file), endpoint)
        reader = PeriodicExportingMetricReader(exporter, interval_s * 1000, timeout_s * 1000)
        self._provider = MeterProvider(
            [reader], Resource({"service.name": service_name}), shutdown_on_exit=False
        )
        meter, totals = self._provider.get_meter("saeguard"), _read_once(totals)
        for key, labels in COUNTERS.items():
            meter.create_observable_counter(_name(key), [_reader(totals, key, labels)])
        for key, labels in GAUGES.items():
            meter.create_observable_gauge(_name(key), [_reader(totals, key, labels)])

    def flush(self) -> None:
        """Sends the present values now."""
        self._provider.force_flush()

    def close(self) -> None:
        """Sends the last values."""
        self._provider.shutdown()


class _Exporter(MetricExporter):
    """Sends what is collected, and says in the log when that begins and ceases to fail."""

    def __init__(self, transport: Transport, endpoint: str) -> None:
        super().__init__()
        self._transport = transport
        self._endpoint = endpoint
        self._is_failing = False

    def export(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **_: Any
    ) -> MetricExportResult:
        try:
            refusal = self._transport.send(encode_metrics(metrics_data)).partial_success
        except DeliveryError as error:
            self._note(str(error))
            return MetricExportResult.FAILURE
        num_rejected = refusal.rejected_data_points
        self._note(f"{num_rejected} rejected: {refusal.error_message}" if num_rejected else "")
        return MetricExportResult.SUCCESS

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        return True

    def shutdown(self, timeout_millis: float = 30_000, **_: Any) -> None:
        self._transport.close()

    def _note(self, error: str) -> None:
        if error and not self._is_failing:
            log.warning("metrics_not_taken", endpoint=self._endpoint, error=error)
        elif self._is_failing and not error:
            log.info("metrics_taken_again", endpoint=self._endpoint)
        self._is_failing = bool(error)


def _name(key: str) -> str:
    return f"saeguard.{key.replace('/', '.')}"


def _read_once(totals: Totals) -> Totals:
    """The totals of one moment for all metrics of a collection: reading them asks the store."""
    newest: Mapping[str, int] = {}
    until_s = float("-inf")

    def read() -> Mapping[str, int]:
        nonlocal newest, until_s
        if time.monotonic() >= until_s:
            newest = totals()
            until_s = time.monotonic() + _COLLECTION_S
        return newest

    return read


def _reader(
    totals: Totals, key: str, labels: Labels
) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def read(_: CallbackOptions) -> Iterable[Observation]:
        return [Observation(value, values) for values, value in series(totals(), key, labels)]

    return read
