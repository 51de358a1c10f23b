"""The monitor is kept running, whatever happens to it or to its files."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from running_monitor import wait_for, write_config

from saeguard.integrations.vllm.supervisor import MonitorProcess

ORGANISM = Path(__file__).resolve().parents[3] / "examples" / "organism"


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    path = tmp_path / "run"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture
def monitor(tmp_path: Path, run_dir: Path) -> Iterator[MonitorProcess]:
    monitor = MonitorProcess(write_config(tmp_path, reload=False), run_dir)
    yield monitor
    monitor.stop()


def test_a_monitor_that_dies_while_its_rules_are_broken_comes_back_once_they_are_mended(
    tmp_path: Path, run_dir: Path, monitor: MonitorProcess
):
    assert monitor.wait_until_ready()
    rules = tmp_path / "rules.yaml"
    good = rules.read_text()
    rules.write_text("broken")
    first = monitor._process
    os.kill(first.pid, signal.SIGKILL)
    wait_for(lambda: monitor._process is not first and monitor._process.poll() == 2, 20)
    rules.write_text(good)
    wait_for((run_dir / "ready").exists, 20)


def test_a_monitor_that_refuses_what_it_is_started_with_is_given_up(tmp_path: Path, run_dir: Path):
    config = write_config(tmp_path)
    (tmp_path / "rules.yaml").write_text("broken")
    monitor = MonitorProcess(config, run_dir)
    assert not monitor.wait_until_ready()
    monitor.stop()


def test_the_monitor_reads_off_the_models_phases_before_there_is_any_request(
    tmp_path: Path, run_dir: Path, capfd: pytest.CaptureFixture[str]
):
    tokenizer_file = str(ORGANISM / "artifacts" / "model" / "tokenizer.json")
    monitor = MonitorProcess(write_config(tmp_path), run_dir, tokenizer_file)
    log = ""

    def has_phases() -> bool:
        nonlocal log
        log += capfd.readouterr().err
        return '"event": "phases"' in log

    wait_for(has_phases, 60)
    monitor.stop()
