"""The alert rules that we ship for Prometheus: its own tool reads them and runs their tests."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from saeguard.monitor.metric_names import COUNTERS, GAUGES, HISTOGRAMS

HERE = Path(__file__).parent
RULES = HERE.parents[2] / "integrations" / "prometheus" / "alerts.yaml"
PROMTOOL = shutil.which("promtool")

needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="needs the Debian package prometheus")


def promtool(*arguments: object, cwd: Path) -> str:
    run = subprocess.run(
        [str(PROMTOOL), *map(str, arguments)], cwd=cwd, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


@needs_promtool
def test_prometheus_reads_them(tmp_path: Path):
    assert "SUCCESS" in promtool("check", "rules", RULES, cwd=tmp_path)


@needs_promtool
def test_each_fires_when_it_has_to_and_only_then(tmp_path: Path):
    for file in (RULES, HERE / "alerts_test.yaml"):
        shutil.copy(file, tmp_path)
    assert "SUCCESS" in promtool("test", "rules", "alerts_test.yaml", cwd=tmp_path)


def test_they_use_metrics_that_there_are():
    served = {f"saeguard_{key.replace('/', '_')}_total" for key in COUNTERS}
    served |= {f"saeguard_{key.replace('/', '_')}" for key in GAUGES}
    served |= {f"saeguard_{key.replace('/', '_')}_bucket" for key in HISTOGRAMS}
    used = set(re.findall(r"\bsaeguard_\w+", RULES.read_text()))
    assert used <= served
    assert len(used) >= 8


def test_each_is_tested():
    names = re.findall(r"alert: (\w+)", RULES.read_text())
    tests = (HERE / "alerts_test.yaml").read_text()
    fired = re.findall(r'\{alertname="(\w+)"', tests)
    assert set(fired) == set(names)
