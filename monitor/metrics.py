"""Starts whatever sends or serves the monitor's metrics."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Protocol

from saeguard.monitor.config import Config, Metrics, locate
from saeguard.monitor.errors import ConfigError
from saeguard.monitor.metric_names import Distributions, Totals


class MetricsExporter(Protocol):
    """Reads totals and distributions whenever it needs them, on a thread of its own."""

    def close(self) -> None: ...


def start_metrics(
    config: Config, totals: Totals, distributions: Distributions
) -> list[MetricsExporter]:
    """
    Raises:
        ConfigError: one is not installed, or cannot work as configured.
    """
    if config.metrics is None:
        return []
    try:
        return _started(config.metrics, totals, distributions)
    except ConfigError as error:
        raise ConfigError(locate(config.path, [(("metrics",), str(error))])) from error


def _started(
    wanted: Metrics, totals: Totals, distributions: Distributions
) -> list[MetricsExporter]:
    started = []
    if wanted.otlp is not None:
        started.append(_load("otlp")(totals=totals, distributions=distributions, **wanted.otlp))
    if wanted.prometheus is not None:
        started.append(_load("prometheus")(totals, distributions, **wanted.prometheus.model_dump()))
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
