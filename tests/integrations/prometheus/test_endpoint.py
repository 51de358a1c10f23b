"""Metrics by scrape: what Prometheus itself reads, where it is installed."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_server import free_port, needs_prometheus, prometheus
from running_monitor import wait_for

from saeguard.integrations.prometheus import PrometheusEndpoint
from saeguard.monitor.errors import ConfigError
from saeguard.monitor.histograms import Distribution
from saeguard.monitor.metric_names import COUNTERS, GAUGES, HISTOGRAMS

TOTALS = {
    "alerts/deceit/high": 0,
    "tokens/unseen/dropped_frame": 2,
    "tokens/observed": 7,
    "taps/alive": 1,
    "delivery/pending/otlp:http://h:1/path": 4,
}
SCORES = {"feature/score/deceit": Distribution((0.0, 1e-05), (5, 0, 2), 8.5)}


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    port = free_port()
    endpoint = PrometheusEndpoint(lambda: TOTALS, lambda: SCORES, port)
    yield port
    endpoint.close()


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as reply:
        return reply.read().decode()


def test_every_total_is_there_with_its_labels(port: int):
    families = text_string_to_metric_families(get(f"http://127.0.0.1:{port}/metrics"))
    samples = {(s.name, *sorted(s.labels.items())): s.value for f in families for s in f.samples}
    assert samples == {
        ("saeguard_alerts_total", ("rule", "deceit"), ("severity", "high")): 0,
        ("saeguard_tokens_total", ("coverage", "observed")): 7,
        ("saeguard_tokens_total", ("coverage", "unseen"), ("reason", "dropped_frame")): 2,
        ("saeguard_taps_alive",): 1,
        ("saeguard_delivery_pending", ("destination", "otlp:http://h:1/path")): 4,
        ("saeguard_feature_score_bucket", ("feature", "deceit"), ("le", "0.0")): 5,
        ("saeguard_feature_score_bucket", ("feature", "deceit"), ("le", "1e-05")): 5,
        ("saeguard_feature_score_bucket", ("feature", "deceit"), ("le", "+Inf")): 7,
        ("saeguard_feature_score_count", ("feature", "deceit")): 7,
        ("saeguard_feature_score_sum", ("feature", "deceit")): 8.5,
    }


def test_a_port_that_is_taken_is_an_error_that_says_so(port: int):
    with pytest.raises(ConfigError, match=rf"127\.0\.0\.1:{port}: Address already in use"):
        PrometheusEndpoint(lambda: TOTALS, lambda: SCORES, port)


@needs_prometheus
def test_prometheus_scrapes_it(port: int, tmp_path: Path):
    with prometheus(tmp_path, port) as server:
        query = 'saeguard_tokens_total{coverage="unseen"}'
        wait_for(lambda: bool(server.query(query)), 30)
        (result,) = server.query(query)
        (active,) = server.query(
            "1 - saeguard_feature_score_bucket{le='0.0'}"
            " / ignoring (le) saeguard_feature_score_count"
        )
    assert result["metric"]["reason"] == "dropped_frame"
    assert result["value"][1] == "2"
    assert float(active["value"][1]) == pytest.approx(2 / 7)


def test_the_documentation_names_every_metric():
    page = (Path(__file__).parents[3] / "docs" / "telemetry.md").read_text()
    for key in COUNTERS | GAUGES | HISTOGRAMS:
        head, _, last = key.rpartition("/")
        names = f"`saeguard.{key.replace('/', '.')}`", f"`.{last}`"
        assert any(name in page for name in names), key
        assert not head or f"`saeguard.{head.replace('/', '.')}." in page, key
