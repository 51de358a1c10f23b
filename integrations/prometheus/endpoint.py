"""The monitor's metrics at `http://<host>:<port>/metrics`."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import start_http_server
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector, CollectorRegistry
from prometheus_client.utils import floatToGoString

from saeguard.monitor.errors import ConfigError
from saeguard.monitor.metric_names import (
    COUNTERS,
    GAUGES,
    HISTOGRAMS,
    Distributions,
    Totals,
    series,
)

_HELP = "See docs/telemetry.md"


class PrometheusEndpoint:
    """Serves `saeguard_*` metrics until it is closed, on threads of its own.

    Args:
        host: on which address; the metrics name tenants' rules, so by default only this machine's.

    Raises:
        ConfigError: nothing can listen there.
    """

    def __init__(
        self, totals: Totals, distributions: Distributions, port: int, host: str = "127.0.0.1"
    ) -> None:
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Monitor(totals, distributions))
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


class _Monitor(Collector):
    """Is read when somebody asks."""

    def __init__(self, totals: Totals, distributions: Distributions) -> None:
        self._totals, self._distributions = totals, distributions

    def collect(self) -> Iterator[Metric]:
        totals, distributions = self._totals(), self._distributions()
        for kind, table in ((CounterMetricFamily, COUNTERS), (GaugeMetricFamily, GAUGES)):
            for key, labels in table.items():
                family = kind(_name(key), _HELP)
                for values, value in series(totals, key, labels):
                    family.add_sample(_sample_name(family), values, value)
                yield family
        for key, labels in HISTOGRAMS.items():
            histogram = HistogramMetricFamily(_name(key), _HELP, labels=labels)
            for values, shape in series(distributions, key, labels):
                bounds = [*map(floatToGoString, shape.bounds), "+Inf"]
                buckets = list(zip(bounds, shape.cumulative, strict=True))
                histogram.add_metric([values[label] for label in labels], buckets, shape.sum)
            yield histogram


def _name(key: str) -> str:
    return f"saeguard_{key.replace('/', '_')}"


def _sample_name(family: Metric) -> str:
    return f"{family.name}_total" if family.type == "counter" else family.name
