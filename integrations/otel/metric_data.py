"""Totals and distributions as OpenTelemetry's metrics.

They are written down without a meter provider: no instrument of OpenTelemetry's can be given a
histogram that is already counted.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from saeguard.monitor.histograms import Distribution
from saeguard.monitor.metric_names import COUNTERS, GAUGES, HISTOGRAMS, series

_SCOPE = InstrumentationScope("saeguard")
_SINCE_START = AggregationTemporality.CUMULATIVE


def metrics_data(
    totals: Mapping[str, int],
    distributions: Mapping[str, Distribution],
    resource: Resource,
    since_ns: int,
) -> MetricsData:
    """All that have a series, as they are now.

    Args:
        since_ns: when counting began.
    """
    period = _Period(since_ns, time.time_ns())
    metrics = list(period.metrics(totals, distributions))
    return MetricsData([ResourceMetrics(resource, [ScopeMetrics(_SCOPE, metrics, "")], "")])


@dataclass(frozen=True)
class _Period:
    since_ns: int
    now_ns: int

    def metrics(
        self, totals: Mapping[str, int], distributions: Mapping[str, Distribution]
    ) -> Iterator[Metric]:
        for key, labels in COUNTERS.items():
            if counts := [self._number(*each) for each in series(totals, key, labels)]:
                yield _metric(key, Sum(counts, _SINCE_START, is_monotonic=True))
        for key, labels in GAUGES.items():
            if levels := [self._number(*each) for each in series(totals, key, labels)]:
                yield _metric(key, Gauge(levels))
        for key, labels in HISTOGRAMS.items():
            if shapes := [self._buckets(*each) for each in series(distributions, key, labels)]:
                yield _metric(key, Histogram(shapes, _SINCE_START))

    def _number(self, labels: dict[str, str], value: int) -> NumberDataPoint:
        return NumberDataPoint(labels, self.since_ns, self.now_ns, value)

    def _buckets(self, labels: dict[str, str], values: Distribution) -> HistogramDataPoint:
        return HistogramDataPoint(
            labels,
            self.since_ns,
            self.now_ns,
            count=values.count,
            sum=values.sum,
            bucket_counts=values.counts,
            explicit_bounds=values.bounds,
            min=None,  # type: ignore[arg-type]  # the protocol has it optional
            max=None,  # type: ignore[arg-type]
        )


def _metric(key: str, data: Sum | Gauge | Histogram) -> Metric:
    return Metric(f"saeguard.{key.replace('/', '.')}", description=None, unit=None, data=data)
