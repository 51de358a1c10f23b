"""Counters and gauges over OTLP, read from the monitor's totals by a private meter provider."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource

from saeguard.integrations.otel.transport import check_endpoint

Totals = Callable[[], Mapping[str, int]]

# Totals are named `metric/value/value...`; these are the metrics and what their values mean.
COUNTERS = {
    "tokens": ("coverage", "reason"),
    "alerts": ("rule", "severity"),
    "limited": ("rule", "severity"),
    "suppressed": ("rule", "severity", "exception"),
    "opted_out": ("rule", "severity"),
    "opt_outs": ("outcome",),
    "building_blocks": ("rule", "severity"),
    "uncovered": ("rule", "severity"),
    "stops": ("rule", "severity", "outcome"),
    "correlations/evicted": (),
    "rules/reload": ("outcome",),
    "frames/dropped": (),
    "messages/dropped": (),
    "messages/unreadable": (),
    "messages/failed": (),
    "rows/nonfinite": (),
    "rows/orphaned": (),
    "rows/phase_unsure": (),
    "rows/unevaluated": (),
    "requests/finished": (),
    "requests/unattended": (),
    "delivery/attempts": ("outcome", "destination"),
    "store/evicted": ("kind",),
}
GAUGES = {
    "requests/live": (),
    "ruleset/info": ("sha256", "version"),
    "taps/alive": (),
    "delivery/pending": ("destination",),
    "delivery/oldest_age_s": ("destination",),
    "store/used_bytes": (),
}


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
        meter = self._provider.get_meter("saeguard")
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


def _reader(
    totals: Totals, key: str, labels: tuple[str, ...]
) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def read(_: CallbackOptions) -> Iterable[Observation]:
        for name, count in totals().items():
            if name == key or name.startswith(f"{key}/"):
                values = name[len(key) + 1 :].split("/", max(0, len(labels) - 1))
                yield Observation(count, dict(zip(labels, values, strict=False)))

    return read
