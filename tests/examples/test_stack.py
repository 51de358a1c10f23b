"""The stack for Docker: its parts fit together, as far as that can be told without Docker."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from saeguard.monitor.config import load_config
from saeguard.monitor.destinations import load_destinations

ROOT = Path(__file__).parents[2]
STACK = ROOT / "examples" / "stack"
DATASOURCES = ROOT / "integrations/grafana/provisioning/datasources/saeguard.yaml"
FILES: dict[str, Any] = {
    file.name: yaml.safe_load(file.read_text()) for file in STACK.glob("*.yaml")
}
SERVICES = FILES["compose.yaml"]["services"]
COLLECTOR = FILES["collector.yaml"]
TEMPO_STORAGE = FILES["tempo.yaml"]["storage"]["trace"]
LOKI_STORAGE = FILES["loki.yaml"]["common"]["storage"]["filesystem"]


def mounts() -> list[tuple[str, str]]:
    """What is mounted where, by all services."""
    all_of_them = [m for service in SERVICES.values() for m in service.get("volumes", ())]
    return [tuple(mount.rsplit(":ro")[0].rsplit(":", 1)) for mount in all_of_them]


def test_saeguard_reads_its_configuration():
    names = list(load_destinations(load_config(STACK / "saeguard.yaml")))
    assert names == ["otlp:http://collector:4317", "alertmanager:http://alertmanager:9093"]


def test_what_is_mounted_is_there():
    sources = [source for source, _ in mounts() if not source.startswith("${")]
    files = [STACK / source for source in sources if source.startswith(".")]
    assert len(files) >= 8
    assert all(path.exists() for path in files)
    volumes = {source for source in sources if not source.startswith(".")}
    assert volumes == set(FILES["compose.yaml"]["volumes"])


def test_every_image_is_of_one_version():
    for service in SERVICES.values():
        _, _, tag = service["image"].partition(":")
        assert re.fullmatch(r"v?\d+\.\d+\.\d+", tag), service["image"]


def test_nothing_is_open_to_the_network():
    ports = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert len(ports) >= 4
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_whoever_is_spoken_to_listens_there():
    (reader,) = COLLECTOR["service"]["telemetry"]["metrics"]["readers"]
    tempo = FILES["tempo.yaml"]
    listening = {
        "server": {FILES["saeguard.yaml"]["metrics"]["prometheus"]["port"], 8000},
        "collector": {
            reader["pull"]["exporter"]["prometheus"]["port"],
            *otlp_ports(COLLECTOR["receivers"]),
        },
        "tempo": {
            tempo["server"]["http_listen_port"],
            *otlp_ports(tempo["distributor"]["receivers"]),
        },
        "loki": {FILES["loki.yaml"]["server"]["http_listen_port"]},
        "prometheus": {9090},
        "alertmanager": {9093},
    }
    files = [STACK / name for name in FILES if name != "compose.yaml"]  # it has tags of images
    texts = [file.read_text() for file in (*files, DATASOURCES)]
    spoken_to = re.findall(rf"\b({'|'.join(SERVICES)}):(\d+)", "\n".join(texts))
    assert {name for name, _ in spoken_to} == set(listening)
    assert listening.keys() <= SERVICES.keys()
    for name, port in spoken_to:
        assert int(port) in listening[name], f"{name}:{port}"


def otlp_ports(receivers: dict[str, Any]) -> set[int]:
    protocols = receivers["otlp"]["protocols"].values()
    return {int(protocol["endpoint"].rpartition(":")[2]) for protocol in protocols}


def test_the_collector_takes_both_signals_and_knows_all_that_its_pipelines_name():
    pipelines = COLLECTOR["service"]["pipelines"]
    assert set(pipelines) == {"logs", "traces"}
    for pipeline in pipelines.values():
        for kind in ("receivers", "processors", "exporters"):
            assert set(pipeline[kind]) <= set(COLLECTOR[kind])
    used = {name for pipeline in pipelines.values() for name in pipeline["exporters"]}
    assert used == set(COLLECTOR["exporters"])
    assert set(COLLECTOR["service"]["extensions"]) == set(COLLECTOR["extensions"])


def test_what_the_collector_accepts_is_on_its_disk_until_the_backend_has_it():
    for exporter in COLLECTOR["exporters"].values():
        assert exporter["sending_queue"]["storage"] in COLLECTOR["service"]["extensions"]
        assert exporter["retry_on_failure"] == {"max_elapsed_time": 0}
    storage = COLLECTOR["extensions"]["file_storage"]
    assert storage["fsync"] is True
    assert ("queue", storage["directory"]) in mounts()


def test_no_processor_of_the_collector_holds_what_was_accepted():
    """The memory limiter refuses, and first of all; a batch processor would keep in memory."""
    for pipeline in COLLECTOR["service"]["pipelines"].values():
        assert pipeline["processors"] == ["memory_limiter"]


@pytest.mark.parametrize(
    ("service", "paths"),
    [
        ("tempo", [TEMPO_STORAGE["wal"]["path"], TEMPO_STORAGE["local"]["path"]]),
        ("loki", [*LOKI_STORAGE.values()]),
        ("server", [FILES["saeguard.yaml"]["store"]]),
    ],
)
def test_what_a_service_keeps_is_in_a_volume(service: str, paths: list[str]):
    volumes = [mount.split(":")[1] for mount in SERVICES[service]["volumes"] if mount[0].isalpha()]
    for path in paths:
        assert any(path.startswith(f"{volume}/") for volume in volumes), path


def test_logs_and_traces_link_to_each_other_in_grafana():
    sources = {each["uid"]: each for each in yaml.safe_load(DATASOURCES.read_text())["datasources"]}
    (field,) = sources["loki"]["jsonData"]["derivedFields"]
    to_logs = sources["tempo"]["jsonData"]["tracesToLogsV2"]
    assert sources[field["datasourceUid"]]["type"] == "tempo"
    assert sources[to_logs["datasourceUid"]]["type"] == "loki"
    assert field["matcherRegex"] in to_logs["query"]
    assert "$$" in field["url"], "Grafana would put an environment variable in its place"
    assert not re.search(r"(?<!\$)\$(?!\$)\{", field["url"] + to_logs["query"])


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs the Debian package prometheus")
def test_prometheus_reads_its_configuration(tmp_path: Path):
    for file in (STACK / "prometheus.yaml", STACK / "collector-alerts.yaml"):
        shutil.copy(file, tmp_path)
    shutil.copy(ROOT / "integrations/prometheus/alerts.yaml", tmp_path)
    run = subprocess.run(
        ["promtool", "check", "config", "prometheus.yaml"], cwd=tmp_path, capture_output=True
    )
    assert run.returncode == 0, run.stdout + run.stderr
