"""The durable store."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from records import make_alert, make_request
from running_monitor import wait_for

from saeguard.monitor import group_commits
from saeguard.monitor.store import (
    Store,
    StoreError,
    get_alert,
    get_request,
    list_alerts,
    list_requests,
    totals,
)
from saeguard.monitor.store_claim import claim

WRITER = """
import time
from records import make_alert
from saeguard.monitor.store import Store
store = Store("alerts.sqlite")
for _ in range(300):
    store.add_alert(make_alert())
store.flush()
print("committed", flush=True)
time.sleep(60)
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "private" / "alerts.sqlite"


def test_alerts_survive_closing_and_reopening(path):
    alert = make_alert()
    with Store(path) as store:
        store.add_alert(alert)
    with Store(path):
        assert list_alerts(path) == [alert]


def test_committed_alerts_survive_the_kill_of_their_writer(tmp_path):
    support = Path(__file__).parents[1] / "support"
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(support)},
        stdout=subprocess.PIPE,
    )
    assert writer.stdout.readline() == b"committed\n"
    writer.send_signal(signal.SIGKILL)
    writer.communicate()
    with Store(tmp_path / "alerts.sqlite") as store:
        assert store.num_pending("any") == 300


def test_a_path_that_cannot_be_looked_at_is_said(tmp_path):
    with pytest.raises(StoreError, match="too long"):
        list_alerts(tmp_path / ("x" * 300))


def test_a_burst_of_alerts_shares_commits(path):
    commits = []
    with Store(path) as store:
        store.on_commit(lambda: commits.append(1))
        for _ in range(1000):
            store.add_alert(make_alert())
    assert len(list_alerts(path, limit=2000)) == 1000
    assert len(commits) < 100


def test_a_full_queue_drops_no_alert(path, monkeypatch):
    monkeypatch.setattr(group_commits, "QUEUE_SIZE", 1)
    with Store(path) as store:
        for _ in range(50):
            store.add_alert(make_alert())
    assert len(list_alerts(path)) == 50


def test_a_failing_disk_delays_alerts_and_loses_none(path, monkeypatch, capsys):
    monkeypatch.setattr(group_commits, "RETRY_S", 0.01)
    with Store(path) as store:
        execute, failures = store._connection.execute, iter([True, True, False])

        def flaky(statements):
            if next(failures, False):
                raise StoreError("disk full")
            return execute(statements)

        monkeypatch.setattr(store._connection, "execute", flaky)
        store.add_alert(make_alert())
        assert store.flush(timeout_s=5)
        assert not store.is_stalled
    assert len(list_alerts(path)) == 1
    (news,) = store.take_news()
    assert capsys.readouterr().err.count("disk full") == 1, "said once"
    assert (news.name, "disk full" in news.message) == ("saeguard.store_stalled", True)


def test_closing_tells_how_many_records_could_not_be_written(path, monkeypatch):
    store = Store(path)

    def full(statements):
        raise StoreError("disk full")

    monkeypatch.setattr(store._connection, "execute", full)
    store.add_alert(make_alert())
    store.add_request(make_request())
    with pytest.raises(StoreError, match="2 records could not be written"):
        store.close(timeout_s=0)


def test_closing_waits_for_a_disk_that_is_being_mended(path, monkeypatch):
    monkeypatch.setattr(group_commits, "RETRY_S", 0.01)
    store = Store(path)
    execute, mended_s = store._connection.execute, time.monotonic() + 0.3

    def broken(statements):
        if time.monotonic() < mended_s:
            raise StoreError("disk full")
        return execute(statements)

    monkeypatch.setattr(store._connection, "execute", broken)
    store.add_alert(make_alert())
    store.close(timeout_s=5)
    assert len(list_alerts(path)) == 1


def test_a_closed_store_refuses_alerts_aloud(path):
    store = Store(path)
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.add_alert(make_alert())


def test_an_alert_handed_over_twice_is_kept_once(path):
    first, second = make_alert(), make_alert()
    with Store(path) as store:
        for alert in (first, first, second):
            store.add_alert(alert)
    assert list_alerts(path) == [second, first]


def test_each_destination_has_its_own_place_in_the_alerts(path):
    alerts = [make_alert() for _ in range(3)]
    with Store(path) as store:
        for alert in alerts:
            store.add_alert(alert)
        store.flush()
        second = store.pending("a", 2)[-1][0]
        store.acknowledge("a", second)
        store.acknowledge("a", 0)  # an old acknowledgement does not move it back
        assert [alert for _, alert in store.pending("a", 9)] == alerts[2:]
        assert [alert for _, alert in store.pending("b", 9)] == alerts
        assert (store.num_pending("a"), store.num_pending("b")) == (1, 3)


def test_totals_add_up_across_reopening(path):
    for _ in range(2):
        with Store(path) as store:
            store.add_totals({"tokens/observed": 5, "requests/finished": 1})
    assert totals(path) == {"requests/finished": 2, "tokens/observed": 10}


def test_the_oldest_requests_make_room(path):
    with Store(path, max_requests=2) as store:
        for name in "abc":
            store.add_request(make_request(req_id=name))
    assert get_request(path, "a") is None
    assert get_request(path, "c").req_id == "c"


def test_a_request_whose_alert_is_not_delivered_yet_is_kept(path):
    with Store(path, max_requests=1) as store:
        store.add_destination("destination")
        store.add_alert(make_alert(req_id="a"))
        for name in "abc":
            store.add_request(make_request(req_id=name))
        store.flush()
        assert get_request(path, "a") is not None
        store.acknowledge("destination", 1)
        store.add_request(make_request(req_id="d"))
    assert get_request(path, "a") is None


def test_a_second_monitor_is_refused_while_the_first_one_writes(path):
    with (
        Store(path),
        pytest.raises(StoreError, match=rf"another monitor writes to it \(process {os.getpid()}"),
    ):
        claim(path, timeout_s=0.1)
    claim(path, timeout_s=0.1).close()


def test_a_monitor_that_is_ending_is_waited_for(path):
    first = Store(path)
    threading.Timer(0.5, first.close).start()
    Store(path).close()


def test_only_the_owner_may_read_the_store(path):
    with Store(path):
        modes = {stat.S_IMODE(os.stat(each).st_mode) for each in path.parent.iterdir()}
    assert modes == {0o600}
    assert stat.S_IMODE(os.stat(path.parent).st_mode) == 0o700


def test_alerts_are_committed_at_once_and_other_records_with_them_or_after_a_pause(
    path, monkeypatch
):
    monkeypatch.setattr(group_commits, "PAUSE_S", 600.0)
    commits = []
    with Store(path) as store:
        store.on_commit(lambda: commits.append(len(list_alerts(path))))
        for number in (1, 2):
            store.add_alert(make_alert())
            wait_for(lambda number=number: len(commits) == number, 60)
        store.add_request(make_request())
        store.add_alert(make_alert())
        wait_for(lambda: len(commits) == 3, 60)
        assert len(list_requests(path)) == 1
    assert commits == [1, 2, 3]


def test_alerts_are_listed_newest_first_and_filtered(path):
    old = make_alert(time_ns=1, severity="low", rule_name="a")
    new = make_alert(time_ns=2, severity="critical", rule_name="b")
    with Store(path) as store:
        store.add_alert(old)
        store.add_alert(new)
    assert list_alerts(path) == [new, old]
    assert list_alerts(path, limit=1) == [new]
    assert list_alerts(path, rule="a") == [old]
    assert list_alerts(path, severity="medium") == [new]
    assert list_alerts(path, since_ns=2) == [new]
    assert list_alerts(path, rule="b", severity="medium", since_ns=2) == [new]
    assert list_alerts(path, rule="a", severity="medium") == []


def test_an_alert_is_found_by_either_end_of_its_id(path):
    alerts = [make_alert(), make_alert()]
    with Store(path) as store:
        for alert in alerts:
            store.add_alert(alert)
    assert get_alert(path, alerts[0].id[-8:].upper()) == alerts[0]
    with pytest.raises(StoreError, match="more than one"):
        get_alert(path, alerts[0].id[:6])
    with pytest.raises(StoreError, match="no alert '%'"):
        get_alert(path, "%")


def test_what_is_no_store_is_refused_with_its_path_and_left_alone(tmp_path):
    text, foreign, under_a_file = (tmp_path / name for name in ("text", "foreign", "text/a.sqlite"))
    text.write_text("not a database, but a longer text than any header" * 9)
    with sqlite3.connect(foreign) as db:
        db.execute("CREATE TABLE theirs (a)")
    for path, reason in {
        text: "file is not a database",
        foreign: "belongs to another program",
        under_a_file: "File exists",
    }.items():
        with pytest.raises(StoreError, match=reason) as caught:
            Store(path)
        assert str(path) in caught.value.message
        assert caught.value.remedy
    assert db.execute("SELECT name FROM sqlite_schema").fetchall() == [("theirs",)]
    db.close()


def test_a_store_of_a_newer_saeguard_is_refused(path):
    Store(path).close()
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(StoreError, match="version 99"):
        list_alerts(path)


def test_a_new_store_is_whole_whenever_it_is_read(tmp_path):
    """A reader in another process polls while stores are made: it sees none, or a whole one."""
    code = """
import sys, time
from pathlib import Path
from saeguard.monitor.store import totals
for i in range(40):
    path = Path(sys.argv[1], f"{i}.sqlite")
    while not path.exists():
        pass
    assert totals(path) == {}, path
"""
    reader = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
    for i in range(40):
        Store(tmp_path / f"{i}.sqlite").close()
        time.sleep(0.01)
    assert reader.wait(timeout=30) == 0
    assert not [path for path in tmp_path.glob(".*") if path.suffix != ".lock"]
