"""A store that has grown to its bound gives up first what nobody waits for."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from records import make_alert, make_request

from saeguard.monitor.retention import used_bytes
from saeguard.monitor.store import Store, list_alerts, list_requests

ROOM = 1 << 20
TEXT = "x" * 2500
"""About 240 alerts with such a message fill the room."""


@pytest.fixture
def store(tmp_path: Path):
    with Store(tmp_path / "alerts.sqlite", max_bytes=ROOM) as store:
        yield store


def add_alerts(store: Store, count: int, req_id: str = "r") -> list[str]:
    alerts = [make_alert(message=TEXT, req_id=req_id) for _ in range(count)]
    for alert in alerts:
        store.add_alert(alert)
    store.flush()
    return [alert.id for alert in alerts]


def kept(store: Store) -> list[str]:
    return [alert.id for alert in reversed(list_alerts(store.path, limit=10_000))]


def size(store: Store) -> int:
    with closing(sqlite3.connect(store.path)) as db:
        return used_bytes(db)


def test_alerts_that_every_destination_has_go_oldest_first(store: Store):
    store.add_destination("slow")
    first = add_alerts(store, 200)
    store.acknowledge("slow", 150)
    second = add_alerts(store, 100)
    left = kept(store)
    assert left == (first + second)[-len(left) :]
    assert set(first[150:]) <= set(left), "they are not delivered yet"
    assert store.evicted["num_undelivered"] == 0
    assert store.evicted["num_taken"] == 300 - len(left) > 0
    assert size(store) <= ROOM


def test_records_of_requests_go_before_any_alert(store: Store):
    ids = add_alerts(store, 100, req_id="alerted")
    for number in range(100):
        store.add_request(make_request(req_id=f"r{number}", reason=TEXT * 3))
    store.flush()
    assert kept(store) == ids
    left = [record.req_id for record in list_requests(store.path)]
    assert left == [f"r{number}" for number in range(100 - len(left), 100)]
    assert 0 < len(left) < 100


def test_a_request_whose_alert_is_awaited_goes_after_the_others(store: Store):
    store.add_destination("slow")
    add_alerts(store, 1, req_id="r0")
    for number in range(150):
        store.add_request(make_request(req_id=f"r{number}", reason=TEXT * 3))
    store.flush()
    left = [record.req_id for record in list_requests(store.path)]
    assert left[0] == "r0"
    assert left[-1] == "r149"
    assert len(left) < 150


def test_undelivered_alerts_go_last_and_are_counted(store: Store):
    store.add_destination("away")
    ids = add_alerts(store, 600)
    left = kept(store)
    assert left == ids[-len(left) :]
    assert store.evicted["num_undelivered"] == 600 - len(left) > 0
    assert size(store) <= ROOM
    assert [alert.id for _, alert in store.pending("away", 1)] == left[:1]


def test_what_is_no_destination_any_more_holds_nothing_back(tmp_path: Path):
    path = tmp_path / "alerts.sqlite"
    with Store(path, max_bytes=ROOM) as store:
        store.add_destination("gone")
        store.add_destination("here")
    with Store(path, max_bytes=ROOM) as store:
        store.add_destination("here")
        add_alerts(store, 200)
        store.acknowledge("here", 200)
        add_alerts(store, 100)
        assert store.evicted["num_undelivered"] == 0
        assert store.evicted["num_taken"] > 0


def test_a_store_that_begins_above_its_bound_knows_who_waits_before_anything_goes(tmp_path: Path):
    path, names = tmp_path / "alerts.sqlite", ("here", "away")
    with Store(path, max_bytes=2 * ROOM) as store:
        add_alerts(store, 400)
        for name in names:
            store.add_destination(name)
        store.acknowledge("here", 400)
    with Store(path, max_bytes=ROOM, destinations=names) as store:
        for name in names:
            store.add_destination(name)
        assert store.evicted["num_taken"] == 0
        assert store.evicted["num_undelivered"] == 400 - len(kept(store)) > 0


def test_below_its_bound_nothing_goes(store: Store):
    ids = add_alerts(store, 150)
    assert kept(store) == ids
    assert not store.evicted.total()
