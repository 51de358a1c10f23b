"""Alerts as lines of JSON."""

from __future__ import annotations

import json
import math
import os
import resource
import stat
import threading
from pathlib import Path

import pytest
from records import fill, make_alert
from running_monitor import running_monitor, start_process, wait_for

from saeguard.integrations.log import LogDestination
from saeguard.monitor.alerts import SignalReading
from saeguard.monitor.delivery import DeliveryError, Sender
from saeguard.monitor.destinations import load_destination
from saeguard.monitor.errors import ConfigError
from saeguard.monitor.spool import status
from saeguard.monitor.store import Store


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "alerts.jsonl"


@pytest.fixture
def store(tmp_path: Path):
    with Store(tmp_path / "alerts.sqlite") as store:
        yield store


def ids_in(*files: Path) -> list[str]:
    return [json.loads(line)["id"] for file in files for line in file.read_text().splitlines()]


def test_a_line_says_all_that_is_known_of_the_alert(file: Path):
    unseen = SignalReading("peak", "deceit", "max", math.nan, "gte", 4.0, False, 2)
    alert = make_alert(client="app-7", signals=[unseen], time_ns=1_800_000_000_000_000_000)
    LogDestination(path=file).deliver([alert])
    (line,) = file.read_text().splitlines()
    got = json.loads(line)
    assert list(got)[:3] == ["event", "timestamp", "id"]
    assert got["event"] == "saeguard.alert"
    assert got["timestamp"] == "2027-01-15T08:00:00.000000+00:00"
    assert set(got) - {"event", "timestamp"} == set(alert.__struct_fields__)
    assert (got["id"], got["client"], got["rule_name"]) == (alert.id, "app-7", alert.rule_name)
    assert got["signals"][0]["value"] is None


def test_hostile_text_forges_no_line_and_moves_no_cursor(file: Path):
    hostile = [*map(chr, [*range(0x20), *range(0x7F, 0xA0), 0x202E, 0x2028, 0xE0001]), '"', "\\"]
    text = "".join(hostile) + '\n{"event": "saeguard.alert", "id": "forged"}\n'
    alert = make_alert(token=text, message=text, request_id=text, tags=[text])
    LogDestination(path=file).deliver([alert, make_alert()])
    written = file.read_text()
    assert all(" " <= char <= "~" or char == "\n" for char in written)
    assert written.count("\n") == 2
    got = json.loads(written.splitlines()[0])
    assert [got[key] for key in ("token", "message", "request_id")] == [text] * 3


def test_the_file_is_the_owners_alone_and_what_it_held_stays(file: Path):
    LogDestination(path=file).deliver([make_alert()])
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    LogDestination(path=file).deliver([make_alert()])
    assert len(ids_in(file)) == 2


@pytest.mark.parametrize("rotate", ["moved", "removed", "emptied"])
def test_after_rotation_alerts_are_in_the_new_file(file: Path, rotate: str):
    destination, old = LogDestination(path=file), file.with_suffix(".1")
    first, second = make_alert(), make_alert()
    destination.deliver([first])
    if rotate == "moved":
        file.rename(old)
    elif rotate == "removed":
        file.unlink()
    else:
        os.truncate(file, 0)
    destination.deliver([second])
    assert ids_in(file) == [second.id]
    assert not old.exists() or ids_in(old) == [first.id]
    destination.close()


def test_what_was_written_to_a_file_that_is_deleted_meanwhile_is_written_again(
    file: Path, monkeypatch: pytest.MonkeyPatch
):
    fsync = os.fsync

    def delete_once(fd: int) -> None:
        fsync(fd)
        file.unlink()
        monkeypatch.undo()

    monkeypatch.setattr(os, "fsync", delete_once)
    alert = make_alert()
    LogDestination(path=file).deliver([alert])
    assert ids_in(file) == [alert.id]


def test_rotation_again_and_again_loses_nothing(tmp_path: Path, file: Path, store: Store):
    sender = Sender(store, LogDestination(path=file))
    ids = []
    for number in range(20):
        ids += fill(store, 20)
        if file.exists():
            file.rename(tmp_path / f"alerts.{number}.jsonl")
    assert sender.drain(60)
    assert set(ids_in(*tmp_path.glob("alerts*.jsonl"))) == set(ids)


def test_a_half_line_of_a_monitor_that_was_killed_spoils_no_other(file: Path):
    file.write_text('{"event": "saegua')
    alert = make_alert()
    LogDestination(path=file).deliver([alert])
    torn, line = file.read_text().splitlines()
    assert torn == '{"event": "saegua'
    assert json.loads(line)["id"] == alert.id


def test_a_full_disk_holds_alerts_back(store: Store, capsys: pytest.CaptureFixture[str]):
    sender = Sender(store, LogDestination(path=Path("/dev/full")), first_delay_s=0.01)
    fill(store, 3)
    wait_for(lambda: sender.attempts["deferred"] >= 2, 30)
    assert not sender.drain(0.1)
    assert store.num_pending("log:/dev/full") == 3
    assert "/dev/full: No space left on device" in capsys.readouterr().err


def test_a_file_that_cannot_grow_any_more_gets_no_half_lines(file: Path):
    destination = LogDestination(path=file)
    first, *others = (make_alert() for _ in range(10))
    destination.deliver([first])
    before = file.read_bytes()
    allowed = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 100, allowed[1]))
    try:
        with pytest.raises(DeliveryError, match="File too large") as caught:
            destination.deliver(others)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, allowed)
    assert caught.value.retriable
    assert file.read_bytes() == before
    destination.deliver(others)
    assert ids_in(file) == [first.id, *(alert.id for alert in others)]


def test_a_directory_that_goes_away_holds_alerts_back_until_it_is_there_again(
    tmp_path: Path, store: Store
):
    directory = tmp_path / "logs"
    directory.mkdir()
    sender = Sender(store, LogDestination(path=directory / "alerts"), first_delay_s=0.01)
    directory.rmdir()
    ids = fill(store, 3)
    wait_for(lambda: sender.attempts["deferred"] >= 2, 30)
    directory.mkdir()
    assert sender.drain(60)
    assert ids_in(directory / "alerts") == ids


def test_a_line_that_a_pipe_took_half_of_is_written_again_as_a_whole():
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    destination = LogDestination(stream="stderr")
    destination._to._fd = writing
    alerts = [make_alert() for _ in range(60)]  # more than a pipe holds
    with pytest.raises(DeliveryError) as caught:
        destination.deliver(alerts)
    assert caught.value.retriable
    received: list[bytes] = []

    def read() -> None:
        while data := os.read(reading, 65536):
            received.append(data)

    os.set_blocking(writing, True)
    reader = threading.Thread(target=read)
    reader.start()
    destination.deliver(alerts)
    os.close(writing)
    reader.join()
    os.close(reading)
    *lines, last = b"".join(received).splitlines()
    ids = [json.loads(line)["id"] for line in lines if line.endswith(b"}")]
    assert json.loads(last)["id"] == alerts[-1].id
    assert {alert.id for alert in alerts} <= {*ids, alerts[-1].id}
    assert sum(not line.endswith(b"}") for line in lines) == 1


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_stream_gets_a_line_for_each(capfd: pytest.CaptureFixture[str], stream: str):
    alerts = [make_alert(), make_alert()]
    load_destination("log", {"stream": stream}).deliver(alerts)
    written = getattr(capfd.readouterr(), stream[3:])
    assert [json.loads(line)["id"] for line in written.splitlines()] == [a.id for a in alerts]


def test_a_running_monitor_writes_every_alert_and_goes_on_after_it_was_killed(tmp_path: Path):
    file, log = tmp_path / "alerts.jsonl", tmp_path / "log"
    destinations = [{"kind": "log", "path": "alerts.jsonl"}, {"kind": "log", "stream": "stderr"}]
    with log.open("w") as stderr, running_monitor(tmp_path, stderr, destinations=destinations) as m:
        m.lie_once("req-1")
        wait_for(lambda: file.exists() and len(ids_in(file)) == 1, 30)
        m.process.kill()
        m.process.wait()
        (tmp_path / "run" / "ready").unlink()
        m.process = start_process(tmp_path / "saeguard.yaml", tmp_path / "run", stderr)
        wait_for((tmp_path / "run" / "ready").exists, 30)
        m.lie_once("req-2")
        wait_for(lambda: len(set(ids_in(file))) == 2, 30)
        wait_for(lambda: all(d.num_pending == 0 for d in status(m.store).destinations), 30)
        m.stop()
        expected = {alert.id for alert in m.alerts()}
    assert set(ids_in(file)) == expected
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert {line["id"] for line in lines if line["event"] == "saeguard.alert"} == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs a stream or a path"),
        ({"stream": "stderr", "path": "a"}, "needs a stream or a path"),
        ({"stream": "syslog"}, "stream: .*'stderr' or 'stdout'"),
        ({"path": "/nowhere/alerts.jsonl"}, "no file can be written at /nowhere"),
        ({"path": "."}, "no file can be written"),
    ],
)
def test_a_wrong_setting_is_named(options: dict[str, str], message: str):
    with pytest.raises(ConfigError, match=message):
        load_destination("log", options)
