"""The monitor on a disk that is full or cannot be written, and two monitors on one store."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from records import make_alert
from running_monitor import running_monitor, start_process, wait_for, write_config
from small_disk import SmallDisk, small_disk

from saeguard.monitor.store import Store, list_alerts
from saeguard.monitor.store_file import StoreError


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk") as disk:
        yield disk


def alert_ids(path: Path) -> list[str]:
    return [alert.id for alert in list_alerts(path, limit=10_000)]


def test_what_is_accepted_while_the_disk_is_full_arrives_once_it_has_space(
    tmp_path: Path, disk: SmallDisk
):
    store, log = disk.path / "alerts.sqlite", tmp_path / "log"
    with (
        log.open("w") as stderr,
        running_monitor(tmp_path, stderr.fileno(), store="disk/alerts.sqlite") as monitor,
    ):
        for number in range(20):
            monitor.lie_once(f"before{number}-x")
        wait_for(lambda: len(monitor.receiver.alert_ids()) == 20, 60)
        disk.fill()
        for number in range(300):
            monitor.lie_once(f"full{number}-x")
        wait_for(lambda: (monitor.metric("saeguard.store.stalled_s") or 0) >= 1, 60)
        assert len(alert_ids(store)) < 320
        disk.empty()
        wait_for(lambda: len(set(monitor.receiver.alert_ids())) == 321, 60)
        wait_for(lambda: monitor.metric("saeguard.store.stalled_s") == 0, 60)
        assert monitor.metric("saeguard.store.refused", kind="alerts") == 0
        monitor.stop()
    said = log.read_text()
    assert said.count('"event": "store_stalled"') == 1
    assert said.count('"event": "store_written_again"') == 1
    alerts = list_alerts(store, limit=10_000)
    assert {alert.id for alert in alerts} == set(monitor.receiver.alert_ids())
    (news,) = [alert for alert in alerts if alert.kind == "health"]
    assert (news.rule_name, news.severity) == ("saeguard.store_stalled", "critical")
    assert "disk is full" in news.message
    assert sum(alert.req_id.startswith("full") for alert in alerts) == 300


def test_a_store_that_cannot_be_written_at_the_start_is_said_with_what_to_do(
    tmp_path: Path, disk: SmallDisk
):
    disk.make_read_only()
    process = start_process(write_config(tmp_path, store="disk/alerts.sqlite"), tmp_path)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2
    assert f"alert store {disk.path / 'alerts.sqlite'}: " in said
    assert "Read-only file system" in said
    assert "check the path, its permissions and the space on its disk" in said
    assert "Traceback" not in said


def test_a_second_monitor_on_the_same_store_ends_and_says_who_has_it(tmp_path: Path):
    """Also where it comes by another name."""
    second = tmp_path / "second"
    second.mkdir()
    (second / "alerts.sqlite").symlink_to(tmp_path / "alerts.sqlite")
    with running_monitor(tmp_path) as monitor:
        monitor.lie_once("before-x")
        process = start_process(write_config(second), second)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 2
        assert f"another monitor writes to it (process {monitor.process.pid})" in said
        assert "give each monitor a store of its own" in said
        monitor.lie_once("after-x")
        wait_for(lambda: len(monitor.receiver.alert_ids()) == 2, 60)


def test_a_damaged_store_on_a_full_disk_waits_for_a_monitor_that_has_space(disk: SmallDisk):
    path = disk.path / "alerts.sqlite"
    alerts = [make_alert() for _ in range(20)]
    with Store(path) as store:
        for alert in alerts:
            store.add_alert(alert)
        store.flush()
        shutil.copy(f"{path}-wal", f"{path}.log")
    os.rename(f"{path}.log", f"{path}-wal")
    path.write_bytes(bytes(path.stat().st_size))  # its log is all that is left
    disk.fill()
    for _ in range(2):
        with pytest.raises(StoreError, match=r"full|No space"):
            Store(path)
    disk.empty()
    with Store(path) as store:
        (news,) = store.take_news()
    assert "20 alerts" in news.message
    assert alert_ids(path) == [alert.id for alert in reversed(alerts)]
