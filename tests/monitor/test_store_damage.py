"""Stores whose files are damaged, deleted or somebody else's: what was committed and can be read is
kept, and the monitor goes on.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from console_script import console_script
from records import make_alert, make_request

from saeguard.monitor.spool import select, status
from saeguard.monitor.store import Store, get_request, list_alerts
from saeguard.monitor.store_file import StoreError
from saeguard.monitor.verdicts import add_verdict, newest

PAGE = 4096


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store" / "alerts.sqlite"


def add(store: Store, count: int) -> list[str]:
    alerts = [make_alert() for _ in range(count)]
    for alert in alerts:
        store.add_alert(alert)
    assert store.flush(20)
    return [alert.id for alert in alerts]


def kept(path: Path) -> list[str]:
    return [alert.id for alert in reversed(list_alerts(path, limit=10_000))]


def asides(path: Path) -> list[Path]:
    return sorted(
        p for p in path.parent.glob("*.damaged-*") if not p.name.endswith(("-wal", "-shm"))
    )


def killed(path: Path, count: int) -> list[str]:
    """Leave a store as a monitor that was killed leaves it: the alerts are in its log."""
    with Store(path.with_name("original")) as store:
        ids = [add(store, 1)[0] for _ in range(count)]  # each in a commit of its own
        for suffix in ("", "-wal"):
            shutil.copy(f"{store.path}{suffix}", f"{path}{suffix}")
    return ids


def overwrite(path: Path, first_page: int, num_pages: int = 1) -> None:
    """Of a store that is open, by another process: closing the file in this one would free the
    locks that SQLite has on it.
    """
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    code = (
        "import os, sys; file = os.open(sys.argv[1], os.O_WRONLY);"
        " os.pwrite(file, sys.stdin.buffer.read(), int(sys.argv[2]))"
    )
    command = [sys.executable, "-c", code, path, str(first_page * PAGE)]
    subprocess.run(command, input=os.urandom(num_pages * PAGE), check=True)


def root_page(path: Path, name: str) -> int:
    """Of a table or an index, counted from 0."""
    with closing(sqlite3.connect(path)) as db:
        query = "SELECT rootpage - 1 FROM sqlite_schema WHERE name = ?"
        return int(db.execute(query, [name]).fetchone()[0])


@pytest.mark.parametrize("harm", ["cut off", "flipped"])
def test_a_damaged_end_of_the_log_costs_only_what_was_in_it(path: Path, harm: str):
    ids = killed(path, 30)
    log = Path(f"{path}-wal")
    data = bytearray(log.read_bytes())
    if harm == "cut off":
        del data[-PAGE * 10 :]
    else:
        data[-PAGE * 10] ^= 0xFF
    log.write_bytes(data)
    with Store(path) as store:
        left = kept(path)
        more = add(store, 1)
    assert 20 <= len(left) < 30
    assert left == ids[: len(left)]
    assert kept(path) == left + more
    assert not asides(path)


def test_whatever_page_is_damaged_what_others_hold_is_kept_and_the_monitor_goes_on(path: Path):
    with Store(path) as store:
        store.add_destination("away")
        ids = add(store, 40)
        store.acknowledge("away", 10)
    whole, root = path.read_bytes(), root_page(path, "alerts")
    num_replaced = 0
    for page in set(range(1, len(whole) // PAGE)) - {root}:
        shutil.rmtree(path.parent)
        path.parent.mkdir()
        begin, end = page * PAGE, (page + 1) * PAGE
        path.write_bytes(whole[:begin] + os.urandom(PAGE) + whole[end:])
        exported = [alert.id for _, alert in select(path)]
        with Store(path) as store:
            store.finished()
            store.add_destination("away")
            more = add(store, 1)
            pending = [alert.id for _, alert in store.pending("away", 100)]
            news = [each.name for each in store.take_news()]
        assert exported == [i for i in ids if i in exported]
        assert pending[-1:] == more
        assert set(exported[10:]) <= set(pending), "the first ten were acknowledged"
        assert len(exported) >= 25
        assert news == ["saeguard.store_damaged"] * len(asides(path))
        num_replaced += len(asides(path))
    assert num_replaced > 5


def test_a_store_that_is_damaged_while_it_is_open_is_replaced(path: Path):
    with Store(path) as store:
        store.add_destination("away")
        store.add_request(make_request())
        ids = add(store, 40)
        add_verdict(path, ids[0], "benign", "", "me")
        overwrite(path, root_page(path, "alerts_by_request"))
        overwrite(path, root_page(path, "sqlite_autoindex_alerts_1"))
        more = add(store, 2)
        found = [alert.id for _, alert in store.pending("away", 100)]
    assert found == ids + more
    assert get_request(path, make_request().req_id) is not None
    assert newest(path, ids)[ids[0]].verdict == "benign"
    (aside,) = asides(path)
    (news,) = store.take_news()
    assert str(aside) in news.message
    assert "40 alerts" in news.message


def test_who_reads_a_damaged_store_has_it_replaced_and_no_new_alert_is_taken_for_an_old_one(
    path: Path,
):
    with Store(path) as store:
        store.add_destination("slow")
        add(store, 30)
        last = store.pending("slow", 100)[-1][0]  # which it is going to acknowledge
        overwrite(path, 1, path.stat().st_size // PAGE - 1)
        assert store.pending("slow", 100) == []
        (new,) = add(store, 1)
        store.acknowledge("slow", last)
        assert [alert.id for _, alert in store.pending("slow", 100)] == [new]
        assert len(store.take_news()) == 1


def test_a_damaged_record_is_passed_over(path: Path):
    with Store(path) as store:
        ids = add(store, 3)
        with closing(sqlite3.connect(path)) as db:
            db.execute("UPDATE alerts SET body = x'c1' WHERE id = ?", [ids[1]])
            db.commit()
        assert [alert.id for _, alert in store.pending("away", 9)] == ids[:1]
        store.acknowledge("away", 1)
        assert [alert.id for _, alert in store.pending("away", 9)] == ids[2:]
    (away,) = status(path).destinations
    assert (away.num_quarantined, "damaged" in away.last_reason) == (1, True)
    assert [alert.id for _, alert in select(path)] == kept(path) == [ids[0], ids[2]]


@pytest.mark.parametrize("body", ["7", "CAST(x'ff80ff' AS TEXT)"])
def test_so_is_one_whose_record_is_no_bytes_any_more(path: Path, body: str):
    with Store(path) as store:
        ids = add(store, 2)
        with closing(sqlite3.connect(path)) as db:
            db.execute(f"UPDATE alerts SET body = {body} WHERE id = ?", [ids[0]])
            db.commit()
        assert [alert.id for _, alert in store.pending("away", 9)] == ids[1:]
        assert [alert.id for _, alert in select(path)] == ids[1:]
        assert kept(path) == ids[1:]


def test_many_damaged_records_in_a_row_are_passed_over(path: Path):
    with Store(path) as store:
        ids = add(store, sys.getrecursionlimit() + 100)
        with closing(sqlite3.connect(path)) as db:
            db.execute("UPDATE alerts SET body = x'c1' WHERE id != ?", [ids[-1]])
            db.commit()
        assert [alert.id for _, alert in store.pending("away", 9)] == ids[-1:]


@pytest.mark.parametrize("is_empty", [True, False], ids=["empty", "beginning lost"])
def test_what_the_log_holds_of_a_store_whose_beginning_is_lost_is_kept(path: Path, is_empty: bool):
    ids = killed(path, 5)
    size = 0 if is_empty else path.stat().st_size
    path.write_bytes(b"\0" * size)
    with Store(path) as store:
        more = add(store, 1)
        (news,) = store.take_news()
    assert kept(path) == ids + more
    (aside,) = asides(path)
    assert str(aside) in news.message


def test_whenever_a_monitor_is_killed_while_it_replaces_a_damaged_store_the_next_one_has_all(
    path: Path,
):
    """One is killed before its first change of a file's name, the next before its second..."""
    code = """
import itertools, os, shutil, sys
from pathlib import Path
from saeguard.monitor.store import Store
damaged, folders = Path(sys.argv[1]), Path(sys.argv[2])
num_changes, num_allowed = itertools.count(), -1
def kill(event, _):
    if event in ("os.rename", "os.link", "os.remove") and next(num_changes) == num_allowed:
        os._exit(9)
sys.addaudithook(kill)
for allowed in range(100):
    folder = folders / f"{allowed:02}"
    shutil.copytree(damaged, folder)
    if not (pid := os.fork()):
        num_changes, num_allowed = itertools.count(), allowed
        Store(folder / "alerts.sqlite")
        os._exit(0)
    if os.waitpid(pid, 0)[1] == 0:
        break
"""
    ids = killed(path, 5)
    path.with_name("original").unlink()
    path.write_bytes(bytes(path.stat().st_size))  # its log has it all
    folders = path.parent.with_name("killed")
    subprocess.run([sys.executable, "-c", code, path.parent, folders], check=True)
    *left, finished = sorted(folders.iterdir())
    assert len(left) > 5
    for folder in [*left, finished]:
        with Store(folder / path.name) as store:
            news = [each.name for each in store.take_news()]
        assert kept(store.path) == ids
        assert asides(store.path)
        assert news == ["saeguard.store_damaged"] * (folder != finished)
        assert not [p for p in folder.glob(".*") if p.suffix != ".lock"]


def test_a_log_without_its_store_is_not_taken_for_that_of_a_new_one(path: Path):
    killed(path, 5)
    path.unlink()
    with Store(path) as store:
        more = add(store, 1)
    assert kept(path) == more
    assert len(list(path.parent.glob("*.damaged-*-wal"))) == 1


def test_an_empty_file_becomes_a_store(path: Path):
    path.parent.mkdir()
    path.touch()
    with Store(path) as store:
        ids = add(store, 1)
    assert kept(path) == ids


def test_a_store_of_a_newer_saeguard_is_left_alone(path: Path):
    Store(path).close()
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")
    before = path.read_bytes()
    with pytest.raises(StoreError, match="version 99") as caught:
        Store(path)
    assert "another path" in caught.value.remedy
    assert path.read_bytes() == before
    assert not asides(path)


@pytest.mark.parametrize("what", ["folder", "file"])
def test_a_store_that_is_deleted_while_it_is_open_is_written_anew(path: Path, what: str):
    with Store(path) as store:
        store.add_destination("away")
        ids = add(store, 10)
        store.acknowledge("away", 4)
        if what == "folder":
            shutil.rmtree(path.parent)
        else:
            path.unlink()
        ids += add(store, 1)
        assert [alert.id for _, alert in store.pending("away", 99)] == ids[4:]
        ids += add(store, 1)
        (news,) = store.take_news()
        assert news.name == "saeguard.store_gone"
    with Store(path) as store:
        assert kept(path) == ids
        assert [alert.id for _, alert in store.pending("away", 99)] == ids[4:]


def test_it_is_missed_without_anything_to_write(path: Path):
    with Store(path) as store:
        ids = add(store, 3)
        shutil.rmtree(path.parent)
        deadline_s = time.monotonic() + 20
        while not path.exists():
            assert time.monotonic() < deadline_s
            time.sleep(0.05)
        assert kept(path) == ids


def test_who_reads_what_has_taken_its_place_costs_nothing_of_what_was_committed(path: Path):
    with Store(path) as store:
        store.add_destination("away")
        ids = add(store, 5)
        with closing(sqlite3.connect(path)) as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        other = path.with_name("other")
        other.write_bytes(os.urandom(2 * PAGE))
        os.replace(other, path)
        assert [alert.id for _, alert in store.pending("away", 9)] == ids
    assert kept(path) == ids
    assert len(list(path.parent.glob("*.foreign-*"))) == 1


def test_a_verdict_does_not_make_a_store_that_is_gone(path: Path):
    path.parent.mkdir()
    with pytest.raises(StoreError):
        add_verdict(path, "an alert", "benign", "", "me")
    assert not path.exists()


def test_what_has_taken_its_place_is_kept_aside(path: Path):
    other = path.with_name("other")
    with Store(path) as store, Store(other) as second:
        theirs = add(second, 2)
        second.close()
        ids = add(store, 2)
        os.replace(other, path)
        ids += add(store, 2)
    assert kept(path) == ids
    (found,) = path.parent.glob("*.foreign-*")
    assert kept(found) == theirs


def test_a_folder_that_cannot_be_made_again_is_waited_for(path: Path):
    with Store(path) as store:
        ids = add(store, 3)
        shutil.rmtree(path.parent)
        path.parent.write_text("in the way")
        alert = make_alert()
        store.add_alert(alert)
        assert not store.flush(0.3)
        assert store.is_stalled
        path.parent.unlink()
        assert store.flush(20)
    assert kept(path) == [*ids, alert.id]


def test_export_says_what_it_cannot_read(path: Path, monkeypatch, capsys, tmp_path: Path):
    with Store(path) as store:
        ids = add(store, 40)
    with path.open("r+b") as file:
        file.seek(-PAGE, os.SEEK_END)
        file.write(os.urandom(PAGE))
    saeguard = console_script(monkeypatch, capsys, tmp_path)
    code, out, err = saeguard("spool", "export", "--store", str(path))
    exported = [json.loads(line)["id"] for line in out.splitlines()]
    assert code == 0
    assert 25 <= len(exported) < 40
    assert exported == [i for i in ids if i in exported]
    assert "rows_unreadable" in err
