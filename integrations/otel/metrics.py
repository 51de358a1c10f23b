"""Counters and gauges over OTLP, read from the monitor's totals by a private meter provider."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource

from saeguard.integrations.otel.transport import check_endpoint
from saeguard.monitor.metric_names import COUNTERS, GAUGES, Labels, Totals, series

_COLLECTION_S = 0.05
"""A collection asks for every metric by itself, all within this time."""


class OtlpMetrics:
    """Sends `saeguard.*` metrics every `interval_s` seconds.

    A series exists from the first time that its key is in the totals. List every rule there with 0
    from the start, or the first alert is no increase in the eyes of Prometheus.
    """

    def __init__(
        self,
        endpoint: str,
        totals: Totals,
        headers: Mapping[str, str] | None = None,
        interval_s: float = 10.0,
        timeout_s: float = 5.0,
        service_name: str = "saeguard",
    ) -> None:
        exporter = OTLPMetricExporter(
            f"{check_endpoint(endpoint)}/v1/metrics", headers=headers, timeout=timeout_s
        )
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
