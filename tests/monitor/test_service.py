"""The real monitor process, fed as vLLM's processes would, delivering to a real OTLP receiver."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_engine import frame_message, start_message
from running_monitor import (
    LIE,
    QUIET,
    Monitor,
    running_monitor,
    start_process,
    wait_for,
    write_config,
)

from saeguard.monitor.config import load_config
from saeguard.monitor.messages import PrefixUpdate, TapStatus, encode
from saeguard.monitor.service import Service
from saeguard.monitor.store import get_request, list_alerts, totals
from saeguard.monitor.watchlist import load


@pytest.fixture
def monitor(tmp_path: Path) -> Iterator[Monitor]:
    with running_monitor(tmp_path) as monitor:
        yield monitor


def test_an_alert_reaches_store_log_traces_and_metrics(monitor: Monitor):
    monitor.lie_once("req-1")
    wait_for(lambda: len(monitor.receiver.alert_ids()) == 1 and len(monitor.receiver.spans) == 1)
    wait_for(lambda: totals(monitor.store).get("requests/finished") == 1)
    wait_for(
        lambda: any(
            m.name == "saeguard.tokens"
            and m.attributes == {"coverage": "observed"}
            and m.value == 3
            for m in monitor.receiver.metrics
        )
    )
    log = monitor.stop()
    (alert,) = list_alerts(monitor.store)
    assert monitor.receiver.alert_ids() == [alert.id]
    assert monitor.receiver.spans[0].attributes["saeguard.alert.id"] == alert.id
    assert (alert.request_id, alert.phase, alert.position) == ("req", "answer", 2)
    assert alert.token is None, "no text unless it is asked for"
    tree = [(line.text, line.holds) for line in alert.condition]
    assert tree == [("all of", True), ("lie", True), ("not", True), ("calm", False)]
    assert alert.id in log
    record = get_request(monitor.store, "req-1")
    assert record is not None
    assert record.coverage.complete
    assert record.coverage.scheduled == 3


def test_alerts_that_leave_a_full_store_undelivered_are_told_aloud(tmp_path: Path):
    # Nobody reads a pipe here, and 1,000 alerts fill it.
    with running_monitor(tmp_path, subprocess.DEVNULL, store_mib=1) as monitor:
        monitor.receiver.fail_with(503)
        for number in range(1000):
            monitor.lie_once(f"req{number}-x")
        wait_for(lambda: bool(monitor.alerts(rule_name="saeguard.alerts_evicted")), 60)
        monitor.receiver.recover()
        (alert,) = monitor.alerts(rule_name="saeguard.alerts_evicted")
        assert (alert.kind, alert.severity) == ("health", "critical")
        wait_for(lambda: alert.id in monitor.receiver.alert_ids())
        wait_for(lambda: bool(monitor.metric("saeguard.store.evicted", kind="undelivered")))
        destination = f"otlp:{monitor.receiver.endpoint}"
        deferred = {"outcome": "deferred", "destination": destination}
        assert monitor.metric("saeguard.delivery.attempts", **deferred)


def test_what_is_on_its_way_when_the_monitor_is_told_to_stop_is_not_lost(monitor: Monitor):
    for number in range(200):
        monitor.lie_once(f"req{number}-x")
    monitor.stop()
    assert len(list_alerts(monitor.store, limit=1000)) == 200
    assert len(set(monitor.receiver.alert_ids())) == 200
    assert totals(monitor.store)["tokens/observed"] == 600


def test_a_request_that_still_runs_when_the_monitor_ends_is_recorded_as_far_as_it_was_seen(
    monitor: Monitor,
):
    monitor.engine.start("req-1", [1, 2])
    monitor.engine.step({"req-1": (0, [QUIET, QUIET])})
    monitor.engine.step({"req-1": (2, [LIE])})
    wait_for(lambda: len(monitor.alerts()) == 1)
    monitor.stop()
    record = get_request(monitor.store, "req-1")
    assert record is not None
    assert (record.reason, record.num_tokens) == ("monitor_shutdown", 4)
    assert (record.coverage.scheduled, record.coverage.observed) == (3, 3)
    assert monitor.total("tokens/observed") == 3


def test_garbage_in_the_inbox_is_counted_and_harms_nothing(monitor: Monitor):
    monitor.engine._socket.send(b"\xff\x00garbage")
    monitor.engine._socket.send(b"")
    monitor.lie_once("req-1")
    wait_for(lambda: len(monitor.receiver.alert_ids()) == 1)
    monitor.stop()
    assert totals(monitor.store)["messages/unreadable"] == 2


def test_requests_that_began_before_there_was_a_monitor_are_a_metric(monitor: Monitor):
    wait_for(lambda: monitor.metric("saeguard.requests.unattended") == 0)
    monitor.engine.start("a-1", [1, 2])
    monitor.engine.start("b-1", [1, 2], clock_ns=1)
    wait_for(lambda: monitor.metric("saeguard.requests.unattended") == 1)


def test_what_the_engine_could_not_send_is_a_metric(monitor: Monitor):
    monitor.engine.start("a-1", [1, 2], num_dropped=2)
    wait_for(lambda: monitor.metric("saeguard.messages.dropped") == 2)
    monitor.engine.end("a-1", num_scheduled=0, num_dropped=3)
    wait_for(lambda: monitor.metric("saeguard.messages.dropped") == 3)


def test_a_worker_whose_taps_are_dead_is_said_so_loudly(monitor: Monitor):
    for _ in range(2):
        monitor.engine.send(TapStatus(rank=0, alive=False, reason="stale compile cache"))
    wait_for(
        lambda: any(
            m.name == "saeguard.taps.alive" and m.value == 0 for m in monitor.receiver.metrics
        )
    )
    (alert,) = monitor.alerts(rule_name="saeguard.blind")
    assert alert.message == "worker 0: stale compile cache"
    log = monitor.stop()
    assert "blind" in log
    assert "stale compile cache" in log


@pytest.mark.parametrize("reader", ["gone", "full disk"])
def test_a_log_that_cannot_be_written_loses_no_alert(tmp_path: Path, reader: str):
    reading, writing = os.pipe()
    os.close(reading)
    broken = writing if reader == "gone" else os.open("/dev/full", os.O_WRONLY)
    with running_monitor(tmp_path, stderr=broken) as monitor:
        monitor.lie_once("req-1")
        wait_for(lambda: len(monitor.receiver.alert_ids()) == 1)
        assert len(monitor.alerts()) == 1
        monitor.stop()
        assert monitor.process.returncode == 0


def test_a_full_disk_does_not_keep_the_monitor_from_ending_and_what_is_lost_is_said(
    monitor: Monitor,
):
    monitor.lie_once("req-1")
    wait_for(lambda: len(monitor.alerts()) == 1)
    resource.prlimit(monitor.process.pid, resource.RLIMIT_FSIZE, (1, 1))
    monitor.lie_once("req-2")
    began_s = time.monotonic()
    log = monitor.stop()
    assert time.monotonic() - began_s < 10, "the plugin kills it then"
    assert re.search(r"\d+ records could not be written", log)
    assert log.count('"event": "alert"') == 2
    assert len(monitor.alerts()) == 1


@pytest.mark.parametrize("is_named", [True, False], ids=["works_for_it", "by_hand"])
def test_the_monitor_ends_with_the_process_that_it_works_for_and_no_other(
    tmp_path: Path, is_named: bool
):
    run_dir = tmp_path / "run"
    run_dir.mkdir(mode=0o700)
    config = write_config(tmp_path)
    parent_option = ", '--parent', str(os.getpid())" if is_named else ""
    script = (
        "import os, subprocess, sys, time\n"
        "p = subprocess.Popen([sys.executable, '-P', '-m', 'saeguard.monitor',"
        f" '--config', {str(config)!r}, '--run-dir', {str(run_dir)!r}"
        f"{parent_option}])\n"
        "print(p.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    wait_for((run_dir / "ready").exists, 30)
    parent.kill()
    parent.wait()
    if not is_named:
        time.sleep(1)
        assert _is_running(pid)
        os.kill(pid, signal.SIGTERM)
    wait_for(lambda: not _is_running(pid), 10)
    parent.communicate()


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rules": ["absent.yaml"]}, "absent.yaml"),
        ({"watchlist": "absent.safetensors"}, "saeguard compile"),
        ({"destinations": [{"kind": "pigeon"}]}, "saeguard.yaml:2:3: no destination 'pigeon'"),
        ({"metrics": {"endpoint": "host:4317"}}, "saeguard.yaml:2:1: OTLP endpoint 'host:4317'"),
        ({"fail": "sometimes"}, "saeguard.yaml:1:1: fail"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_configuration_that_cannot_be_used_ends_with_one_message(
    tmp_path: Path, change: dict[str, object], message: str
):
    process = start_process(write_config(tmp_path, **change), tmp_path)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 2
    assert message in stderr
    assert "Traceback" not in stderr


def test_the_monitor_process_stays_light():
    """It shares a machine with a model server: no torch, no transformers, no vllm."""
    code = (
        "import sys, saeguard.monitor.process, saeguard.integrations.otel\n"
        "heavy = {'torch', 'transformers', 'vllm', 'sae_lens', 'transformer_lens'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_is_known_of_the_prefix_cache_is_counted_as_cached(monitor: Monitor):
    prefix = {"block_size": 2, "block_hashes": [b"one", b"two"]}
    monitor.engine.start("a-1", [1, 2, 3, 4], **prefix)
    monitor.engine.step({"a-1": (0, [QUIET] * 4)})
    monitor.engine.start("b-1", [1, 2, 3, 4], **prefix)
    monitor.engine.send(PrefixUpdate(skipped={"b-1": (0, 2)}))
    monitor.engine.step({"b-1": (2, [QUIET] * 2)})
    monitor.engine.end("a-1", num_scheduled=4)
    monitor.engine.end("b-1", num_scheduled=2, num_cached=2)
    wait_for(lambda: monitor.metric("saeguard.tokens", coverage="cached") == 2)
    monitor.stop()
    counts = totals(monitor.store)
    assert (counts["tokens/scheduled"], counts["tokens/observed"]) == (8, 6)
    assert not [key for key in counts if key.startswith("tokens/unseen")]


def test_destinations_that_are_away_do_not_add_up_at_the_end(tmp_path: Path):
    away = [{"kind": "webhook", "url": f"http://127.0.0.1:{port}"} for port in (9, 10, 11)]
    with running_monitor(tmp_path, destinations=away) as monitor:
        monitor.lie_once("req-1")
        wait_for(lambda: len(monitor.alerts()) == 1)
        began_s = time.monotonic()
        monitor.stop()
        assert time.monotonic() - began_s < 9, "the plugin kills it after 10"


def test_an_alert_that_cannot_be_made_costs_no_other_of_its_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = load_config(write_config(tmp_path))
    service = Service(config, tmp_path)
    decided = service._reporter.decided

    def fail_at_b(decision, detection, book):
        if detection.request.start.req_id == "b":
            raise ValueError("a fault of ours")
        return decided(decision, detection, book)

    monkeypatch.setattr(service._reporter, "decided", fail_at_b)
    rows = {req_id: (0, [QUIET, QUIET, LIE]) for req_id in "abc"}
    for req_id in rows:
        service._accept(encode(start_message(req_id, [1, 2])))
    watchlist = load(config.watchlist)
    frame = frame_message(rows, 1, watchlist.digest, watchlist.columns)
    service._observe_all(service._accept(encode(*frame)))
    service.close()
    assert sorted(alert.req_id for alert in list_alerts(config.store)) == ["a", "c"]
    assert totals(config.store)["messages/failed"] == 1
