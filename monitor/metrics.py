"""Starts whatever sends or serves the monitor's metrics."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Protocol

from saeguard.monitor.config import Metrics
from saeguard.monitor.errors import ConfigError
from saeguard.monitor.metric_names import Totals


class MetricsExporter(Protocol):
    """Reads the totals whenever it needs them, on a thread of its own."""

    def close(self) -> None: ...


def start_metrics(wanted: Metrics | None, totals: Totals) -> list[MetricsExporter]:
    """
    Raises:
        ConfigError: one is not installed, or cannot work as configured.
    """
    if wanted is None:
        return []
    started = []
    if wanted.endpoint is not None:
        started.append(_load("otlp")(wanted.endpoint, totals, interval_s=wanted.interval_s))
    if wanted.prometheus is not None:
        started.append(_load("prometheus")(totals, **wanted.prometheus.model_dump()))
    return started


def _load(name: str) -> Callable[..., MetricsExporter]:
    (entry,) = entry_points(group="saeguard.metrics", name=name)
    try:
        exporter: Callable[..., MetricsExporter] = entry.load()
    except ImportError as error:
        raise ConfigError(
            f"metrics by {name}: {error}", f"pip install 'saeguard[{name}]'"
        ) from error
    return exporter
