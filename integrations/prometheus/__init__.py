"""Metrics for Prometheus to scrape."""

from saeguard.integrations.prometheus.endpoint import PrometheusEndpoint

__all__ = ["PrometheusEndpoint"]
