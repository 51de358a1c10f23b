"""The stack for Docker: its parts fit together, as far as that can be told without Docker."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from saeguard.monitor.config import load_config
from saeguard.monitor.destinations import load_destination

STACK = Path(__file__).parents[2] / "examples" / "stack"
FILES = {file.name: yaml.safe_load(file.read_text()) for file in STACK.glob("*.yaml")}


def test_saeguard_reads_its_configuration():
    config = load_config(STACK / "saeguard.yaml")
    names = [load_destination(each.kind, each.options).name for each in config.destinations]
    assert names == ["otlp:http://collector:4318", "alertmanager:http://alertmanager:9093"]


def test_every_file_that_is_mounted_is_there():
    mounts = [
        mount
        for service in FILES["compose.yaml"]["services"].values()
        for mount in service.get("volumes", ())
    ]
    own = [STACK / mount.split(":")[0] for mount in mounts if mount.startswith(".")]
    assert len(own) >= 6
    assert all(path.exists() for path in own)


def test_whoever_is_spoken_to_is_a_service():
    services = set(FILES["compose.yaml"]["services"])
    text = "".join((STACK / name).read_text() for name in FILES if name != "compose.yaml")
    datasources = STACK.parents[1] / "integrations/grafana/provisioning/datasources/saeguard.yaml"
    spoken_to = {"collector", "alertmanager", "server", "tempo", "loki", "prometheus"}
    assert spoken_to <= services
    for name in spoken_to:
        assert f"{name}:" in text + datasources.read_text()


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs the Debian package prometheus")
def test_prometheus_reads_its_configuration(tmp_path: Path):
    shutil.copy(STACK / "prometheus.yaml", tmp_path)
    shutil.copy(STACK.parents[1] / "integrations/prometheus/alerts.yaml", tmp_path)
    run = subprocess.run(
        ["promtool", "check", "config", "prometheus.yaml"], cwd=tmp_path, capture_output=True
    )
    assert run.returncode == 0, run.stdout + run.stderr
