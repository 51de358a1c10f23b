"""The monitor is kept running, whatever happens to it or to its files, and waited for."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from running_monitor import start_process, wait_for, write_config

from saeguard.integrations.vllm.supervisor import MonitorProcess, ensure_monitor
from saeguard.monitor.config import load_config
from saeguard.monitor.errors import ConfigError

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


def test_one_that_has_stood_by_takes_the_place_of_a_killed_monitor(
    run_dir: Path, monitor: MonitorProcess
):
    assert monitor.wait_until_ready()
    ready = run_dir / "ready"
    for _ in range(2):
        assert int(ready.read_text()) == monitor._process.pid
        wait_for(lambda: monitor._next is not None, 20)
        killed, prepared = monitor._process, monitor._next
        assert prepared is not None
        os.kill(killed.pid, signal.SIGKILL)
        wait_for(lambda gone=killed: monitor._process is not gone, 20)
        assert monitor._process is prepared
        wait_for(ready.exists, 20)


def test_one_that_stands_by_ends_with_whom_it_stands_by_for(run_dir: Path, monitor: MonitorProcess):
    assert monitor.wait_until_ready()
    wait_for(lambda: monitor._next is not None, 20)
    prepared = monitor._next
    assert prepared is not None
    assert prepared.stdin is not None
    prepared.stdin.close()  # as the system does when this process ends
    assert prepared.wait(20) == 0
    killed = monitor._process
    os.kill(killed.pid, signal.SIGKILL)
    wait_for(lambda: monitor._process not in (killed, prepared), 20)
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


def test_a_monitor_that_is_started_by_hand_is_waited_for(tmp_path: Path, run_dir: Path):
    config = load_config(by_hand(tmp_path, fail="closed"))
    with start_process(config.path, run_dir) as process:
        try:
            assert ensure_monitor(config, run_dir, None) is None
        finally:
            process.kill()
    assert (run_dir / "inbox").exists(), "what it has left behind must not be taken for it"
    with pytest.raises(ConfigError, match="there is no monitor") as caught:
        ensure_monitor(config, run_dir, None, patience_s=0.1)
    assert f"run: saeguard monitor --config {config.path}" in str(caught.value)


def test_where_the_configuration_lets_it_the_model_is_served_without_a_monitor(
    tmp_path: Path, run_dir: Path
):
    config = load_config(by_hand(tmp_path, fail="open"))
    assert ensure_monitor(config, run_dir, None, patience_s=0.1) is None


def test_where_the_store_cannot_be_written_the_model_is_served_and_the_log_says_blind(
    tmp_path: Path, run_dir: Path, caplog: pytest.LogCaptureFixture
):
    (tmp_path / "in-the-way").touch()
    config = load_config(write_config(tmp_path, store="in-the-way/alerts.sqlite", fail="open"))
    monitor = ensure_monitor(config, run_dir, None)
    assert monitor is not None
    monitor.stop()
    assert "BLIND" in caplog.text
    assert "serving goes on without it" in caplog.text


def by_hand(directory: Path, fail: str) -> Path:
    return write_config(directory, start_monitor=False, run_dir="run", fail=fail)
