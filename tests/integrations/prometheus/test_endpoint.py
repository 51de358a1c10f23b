"""Metrics by scrape: what Prometheus itself reads, where it is installed."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from running_monitor import wait_for

from saeguard.integrations.prometheus import PrometheusEndpoint
from saeguard.monitor.errors import ConfigError
from saeguard.monitor.metric_names import COUNTERS, GAUGES

PROGRAM = shutil.which("prometheus")
TOTALS = {
    "alerts/deceit/high": 0,
    "tokens/unseen/dropped_frame": 2,
    "tokens/observed": 7,
    "taps/alive": 1,
    "delivery/pending/otlp:http://h:1/path": 4,
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    port = free_port()
    endpoint = PrometheusEndpoint(lambda: TOTALS, port)
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
    }


def test_a_port_that_is_taken_is_an_error_that_says_so(port: int):
    with pytest.raises(ConfigError, match=rf"127\.0\.0\.1:{port}: Address already in use"):
        PrometheusEndpoint(lambda: TOTALS, port)


@pytest.mark.skipif(PROGRAM is None, reason="needs the Debian package prometheus")
def test_prometheus_scrapes_it(port: int, tmp_path: Path):
    own = free_port()
    config = tmp_path / "prometheus.yml"
    target = f"127.0.0.1:{port}"
    config.write_text(
        "global: {scrape_interval: 200ms}\n"
        f"scrape_configs: [{{job_name: saeguard, static_configs: [{{targets: ['{target}']}}]}}]\n"
    )
    command = [
        str(PROGRAM), f"--config.file={config}", f"--storage.tsdb.path={tmp_path / 'data'}",
        f"--web.listen-address=127.0.0.1:{own}",
    ]  # fmt: skip
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        query = 'saeguard_tokens_total{coverage="unseen"}'
        wait_for(lambda: bool(results(own, query)), 30)
        (result,) = results(own, query)
        assert result["metric"]["reason"] == "dropped_frame"
        assert result["value"][1] == "2"
    finally:
        process.kill()
        process.wait()


def results(port: int, query: str) -> list[dict]:
    encoded = urllib.parse.urlencode({"query": query})
    try:
        return json.loads(get(f"http://127.0.0.1:{port}/api/v1/query?{encoded}"))["data"]["result"]
    except OSError:
        return []


def test_the_documentation_names_every_metric():
    page = (Path(__file__).parents[3] / "docs" / "configuration.md").read_text()
    for key in COUNTERS | GAUGES:
        head, _, last = key.rpartition("/")
        names = f"`saeguard.{key.replace('/', '.')}`", f"`.{last}`"
        assert any(name in page for name in names), key
        assert not head or f"`saeguard.{head.replace('/', '.')}." in page, key
