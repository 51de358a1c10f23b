"""The dashboards that we ship for Grafana: a real Prometheus answers every query of theirs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_server import Prometheus, free_port, needs_prometheus, prometheus
from running_monitor import wait_for

from saeguard.integrations.prometheus import PrometheusEndpoint
from saeguard.monitor.histograms import Distribution
from saeguard.monitor.metric_names import COUNTERS, GAUGES, HISTOGRAMS

FOLDER = Path(__file__).parents[3] / "integrations" / "grafana"
DASHBOARDS = {
    file.stem: json.loads(file.read_text()) for file in sorted(FOLDER.glob("dashboards/*.json"))
}
VARIABLES = {"$instance": ".*", "$rule": "a", "$feature": "a", "$__rate_interval": "5s"}
# Of each label one value that the queries ask for.
VALUES = {"coverage": "observed", "severity": "high", "outcome": "stopped", "reason": ""}


def totals() -> dict[str, int]:
    """Every metric, once."""
    found = {
        "/".join([key, *(VALUES.get(label, "a") for label in labels)]).rstrip("/"): 1
        for key, labels in (COUNTERS | GAUGES).items()
    }
    return found | {
        "tokens/scheduled": 1, "tokens/unseen/evicted": 1, "rules/reload/refused": 1,
    }  # fmt: skip


def distributions() -> dict[str, Distribution]:
    return {
        "/".join([key, *("a" for _ in labels)]): Distribution((0.0, 1.0), (1, 1, 1), 3.0)
        for key, labels in HISTOGRAMS.items()
    }


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    port = free_port()
    endpoint = PrometheusEndpoint(totals, distributions, port)
    with prometheus(tmp_path_factory.mktemp("prometheus"), port) as server:
        wait_for(lambda: bool(server.query("rate(saeguard_tokens_total[5s])")), 30)
        yield server
    endpoint.close()


def targets_of(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    return [target for panel in dashboard["panels"] for target in panel["targets"]]


def filled(expression: str) -> str:
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    return expression


@needs_prometheus
@pytest.mark.parametrize("name", DASHBOARDS)
def test_every_query_has_an_answer(server: Prometheus, name: str):
    expressions = [filled(target["expr"]) for target in targets_of(DASHBOARDS[name])]
    assert len(expressions) >= 10
    silent = [expression for expression in expressions if not server.query(expression)]
    assert not silent


@needs_prometheus
@pytest.mark.parametrize("name", DASHBOARDS)
def test_every_legend_names_labels_that_there_are(server: Prometheus, name: str):
    for target in targets_of(DASHBOARDS[name]):
        for label in (part.split("}}")[0] for part in target["legendFormat"].split("{{")[1:]):
            assert label in server.query(filled(target["expr"]))[0]["metric"], target


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panels_fill_the_grid_and_do_not_overlap(name: str):
    cells: set[tuple[int, int]] = set()
    for panel in DASHBOARDS[name]["panels"]:
        place = panel["gridPos"]
        own = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not own & cells, panel["title"]
        assert max(x for x, _ in own) < 24
        cells |= own


def test_dashboards_have_ids_of_their_own():
    uids = [dashboard["uid"] for dashboard in DASHBOARDS.values()]
    assert len(set(uids)) == len(uids) == 4


def test_provisioning_files_are_yaml():
    files = sorted(FOLDER.glob("provisioning/*/*.yaml"))
    assert [yaml.safe_load(file.read_text())["apiVersion"] for file in files] == [1, 1]
