"""`saeguard spool` says what waits where, and sends again what was refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from console_script import console_script
from json_receiver import JsonReceiver
from records import make_alert, make_request
from running_monitor import write_config

from saeguard.integrations.webhook import WebhookDestination
from saeguard.monitor.delivery import Sender
from saeguard.monitor.store import Store

Run = Callable[..., tuple[int, str, str]]
STORE = ("--store", "alerts.sqlite")


@pytest.fixture
def saeguard(monkeypatch, capsys, tmp_path: Path) -> Run:
    return console_script(monkeypatch, capsys, tmp_path)


@pytest.fixture
def receiver():
    with JsonReceiver() as receiver:
        yield receiver


@pytest.fixture
def ids(tmp_path: Path, receiver: JsonReceiver) -> list[str]:
    """Of nine alerts, of which the destination has refused the third and the fourth."""
    write_config(tmp_path, destinations=[{"kind": "webhook", "url": receiver.url}])
    alerts = [make_alert(message="poison" if i in (2, 3) else "sound") for i in range(9)]
    receiver.refused_text = b"poison"
    with Store(tmp_path / "alerts.sqlite") as store:
        store.add_request(make_request())
        for alert in alerts:
            store.add_alert(alert)
        store.flush()
        assert Sender(store, WebhookDestination(receiver.url)).drain(10)
    receiver.posts.clear()
    return [alert.id for alert in alerts]


def replay(saeguard: Run, receiver: JsonReceiver, *more: str) -> tuple[int, str, str]:
    destination = ("--destination", f"webhook:{receiver.url}")
    return saeguard("spool", "replay", "--config", "saeguard.yaml", *destination, *more)


def ids_at(receiver: JsonReceiver) -> list[str]:
    return [alert["id"] for post in receiver.posts for alert in post.json["alerts"]]


def test_it_says_how_far_each_destination_has_got(saeguard: Run, tmp_path: Path, ids: list[str]):
    with Store(tmp_path / "alerts.sqlite") as store:
        store.add_destination("otlp:http://elsewhere")
    code, out, _ = saeguard("spool", "status", *STORE)
    assert code == 1, "something was refused"
    assert "9 alerts and 1 request," in out
    assert "webhook:http://127.0.0.1" in out
    assert "HTTP Error 400" in out
    _, out, _ = saeguard("spool", "status", "--json", *STORE)
    away, webhook = json.loads(out)["destinations"]
    assert (away["num_pending"], away["num_quarantined"]) == (9, 0)
    assert away["oldest_pending_ns"] > 0
    assert (webhook["num_pending"], webhook["num_quarantined"]) == (0, 2)


def test_what_was_refused_is_printed(saeguard: Run, receiver: JsonReceiver, ids: list[str]):
    name = f"webhook:{receiver.url}"
    which = ("--which", "quarantined", "--destination", name)
    code, out, _ = saeguard("spool", "export", *which, *STORE)
    assert code == 0
    assert [json.loads(line)["id"] for line in out.splitlines()] == ids[2:4]


def test_what_the_destination_takes_now_leaves_the_quarantine(
    saeguard: Run, receiver: JsonReceiver, ids: list[str]
):
    code, out, err = replay(saeguard, receiver)
    assert (code, out.split(" by ")[0]) == (1, "0 taken")
    assert ids[2] in err
    receiver.refused_text = b"\0never"
    code, out, _ = replay(saeguard, receiver)
    assert (code, out) == (0, f"2 taken by webhook:{receiver.url}, 0 refused\n")
    assert ids_at(receiver) == ids[2:4]
    assert replay(saeguard, receiver)[1].startswith("0 taken")
    assert saeguard("spool", "status", *STORE)[0] == 0


def test_all_alerts_can_be_sent_again(saeguard: Run, receiver: JsonReceiver, ids: list[str]):
    receiver.refused_text = b"\0never"
    replay(saeguard, receiver, "--which", "all")
    assert ids_at(receiver) == ids


def test_what_cannot_be_done_is_said(saeguard: Run, receiver: JsonReceiver, ids: list[str]):
    receiver.refused_text, receiver.status = b"\0never", 503
    code, _, err = replay(saeguard, receiver)
    assert (code, "503" in err) == (2, True)
    wrong = ("--config", "saeguard.yaml", "--destination", "nobody")
    code, _, err = saeguard("spool", "replay", *wrong)
    assert (code, f"known: webhook:{receiver.url}" in err) == (2, True)
    code, _, err = saeguard("spool", "status", "--store", "none.sqlite")
    assert (code, "there is no alert store" in err) == (2, True)
    code, _, err = saeguard("spool", "export", "--which", "pending", *STORE)
    assert (code, "there is no destination ''" in err) == (2, True)
