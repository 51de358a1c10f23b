"""The monitor's totals at `http://<host>:<port>/metrics`."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from saeguard.monitor.errors import ConfigError
from saeguard.monitor.metric_names import COUNTERS, GAUGES, Totals, series


class PrometheusEndpoint:
    """Serves `saeguard_*` metrics until it is closed, on threads of its own.

    Args:
        host: on which address; the metrics name tenants' rules, so by default only this machine's.

    Raises:
        ConfigError: nothing can listen there.
    """

    def __init__(self, totals: Totals, port: int, host: str = "127.0.0.1") -> None:
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Totals(totals))
        try:
            self._server, self._thread = start_http_server(port, host, registry)
        except OSError as error:
            raise ConfigError(
                f"metrics cannot be served at {host}:{port}: {error.strerror}",
                "set metrics.prometheus.port to a free one",
            ) from error

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Totals(Collector):
    """Reads them when somebody asks."""

    def __init__(self, totals: Totals) -> None:
        self._totals = totals

    def collect(self) -> Iterator[Metric]:
        totals = self._totals()
        for kind, table in ((CounterMetricFamily, COUNTERS), (GaugeMetricFamily, GAUGES)):
            for key, labels in table.items():
                family = kind(f"saeguard_{key.replace('/', '_')}", "See docs/telemetry.md")
                for values, value in series(totals, key, labels):
                    family.add_sample(_sample_name(family), values, value)
                yield family


def _sample_name(family: Metric) -> str:
    return f"{family.name}_total" if family.type == "counter" else family.name
