"""Alerts by webhook, from the store to a program that checks who sent them."""

from __future__ import annotations

import hashlib
import hmac
import math
import ssl
import threading
import time
from pathlib import Path

import pytest
from certificates import self_signed
from json_receiver import JsonReceiver, Post
from records import fill, make_alert

from saeguard.integrations.webhook import WebhookDestination
from saeguard.monitor.alerts import SignalReading
from saeguard.monitor.delivery import DeliveryError, Sender
from saeguard.monitor.destinations import load_destination
from saeguard.monitor.errors import ConfigError
from saeguard.monitor.store import Store
from saeguard.monitor.store_file import reading


@pytest.fixture
def receiver():
    with JsonReceiver() as receiver:
        yield receiver


@pytest.fixture
def store(tmp_path: Path):
    with Store(tmp_path / "alerts.sqlite") as store:
        yield store


def ids_of(posts: list[Post]) -> list[str]:
    return [alert["id"] for post in posts for alert in post.json["alerts"]]


def test_an_alert_arrives_with_all_that_is_known_of_it(receiver: JsonReceiver):
    alert = make_alert(client="app-7")
    destination = load_destination("webhook", {"url": receiver.url + "/hook?team=red"})
    destination.deliver([alert])
    (post,) = receiver.posts
    assert post.path == "/hook?team=red"
    assert post.headers["Content-Type"] == "application/json"
    document = post.json
    assert document["version"] == 1
    (got,) = document["alerts"]
    assert (got["id"], got["rule_name"], got["client"]) == (alert.id, alert.rule_name, "app-7")
    assert got["signals"][0]["value"] == 7.21
    assert got["coverage"]["unseen"] == {"evicted": 1}


def test_what_was_not_observed_is_null(receiver: JsonReceiver):
    unseen = SignalReading("peak", "deceit", "max", math.nan, "gte", 4.0, False, 2)
    WebhookDestination(receiver.url).deliver([make_alert(signals=[unseen])])
    assert receiver.posts[0].json["alerts"][0]["signals"][0]["value"] is None
    assert b"NaN" not in receiver.posts[0].body


@pytest.mark.parametrize("source", ["env", "file"])
def test_the_receiver_can_check_who_sent_it_and_when(
    receiver: JsonReceiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
):
    monkeypatch.setenv("HOOK_SECRET", "hush")
    (tmp_path / "secret").write_text("hush\n")
    secret = {"env": "HOOK_SECRET", "file": str(tmp_path / "secret")}[source]
    destination = WebhookDestination(receiver.url, **{f"secret_{source}": secret})
    destination.deliver([make_alert()])
    (post,) = receiver.posts
    timestamp = post.headers["X-Saeguard-Timestamp"]
    assert abs(int(timestamp) - time.time()) < 60
    expected = hmac.new(b"hush", f"{timestamp}.".encode() + post.body, hashlib.sha256).hexdigest()
    assert post.headers["X-Saeguard-Signature"] == f"sha256={expected}"


def test_after_an_outage_every_alert_arrives_exactly_once(receiver: JsonReceiver, store: Store):
    receiver.status = 503
    sender = Sender(store, WebhookDestination(receiver.url), first_delay_s=0.1)
    ids = fill(store, 300)
    threading.Timer(1.0, setattr, (receiver, "status", 200)).start()
    assert sender.drain(20)
    assert ids_of(receiver.posts) == ids
    assert receiver.num_refused > 1


def test_an_alert_that_is_refused_does_not_hold_back_the_others(
    receiver: JsonReceiver, store: Store
):
    ids = fill(store, 20)
    receiver.refused_text = ids[7].encode()
    sender = Sender(store, WebhookDestination(receiver.url))
    assert sender.drain(20)
    assert ids_of(receiver.posts) == [*ids[:7], *ids[8:]]
    with reading(store.path) as db:
        assert db.execute("SELECT row FROM quarantine").fetchall() == [(8,)]


@pytest.mark.parametrize(
    ("status", "is_retriable"), [(500, True), (429, True), (401, True), (404, True), (400, False)]
)
def test_only_what_speaks_of_the_alerts_refuses_them(
    receiver: JsonReceiver, status: int, is_retriable: bool
):
    receiver.status = status
    with pytest.raises(DeliveryError) as error:
        WebhookDestination(receiver.url).deliver([make_alert()])
    assert error.value.retriable is is_retriable


def test_a_header_may_come_from_the_environment(
    receiver: JsonReceiver, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HOOK_TOKEN", " Bearer abc\n")
    headers = {"Authorization": {"env": "HOOK_TOKEN"}, "X-Team": "red"}
    load_destination("webhook", {"url": receiver.url, "headers": headers}).deliver([make_alert()])
    (post,) = receiver.posts
    assert (post.headers["Authorization"], post.headers["X-Team"]) == ("Bearer abc", "red")


def test_a_secret_that_cannot_be_sent_is_not_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOOK_TOKEN", "hush\nhush")
    headers = {"Authorization": {"env": "HOOK_TOKEN"}}
    with pytest.raises(ConfigError, match="the header 'Authorization' cannot be sent") as error:
        load_destination("webhook", {"url": "http://host", "headers": headers})
    assert "hush" not in str(error.value)


def test_tls_with_a_private_authority(tmp_path: Path):
    own, pem = self_signed(), tmp_path / "key.pem"
    pem.write_bytes(own.key + own.certificate)
    (tmp_path / "ca.pem").write_bytes(own.certificate)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(pem)
    with JsonReceiver(tls) as receiver:
        alert = make_alert()
        WebhookDestination(receiver.url, ca_file=tmp_path / "ca.pem").deliver([alert])
        assert ids_of(receiver.posts) == [alert.id]
        with pytest.raises(DeliveryError, match="CERTIFICATE_VERIFY_FAILED") as error:
            WebhookDestination(receiver.url).deliver([alert])
    assert error.value.retriable


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": "localhost:8080"}, "is not an http"),
        ({"url": "http://me:pw@host"}, "must not hold a password"),
        ({"url": "http://host", "secret_env": "NOT_SET"}, "secret in NOT_SET is empty"),
        ({"url": "http://host", "secret_file": "/nowhere"}, "No such file"),
        ({"url": "http://host", "secret_env": "A", "secret_file": "b"}, "two secrets"),
        ({"url": "http://host", "headers": {"A": {"env": "NOT_SET"}}}, "in NOT_SET is empty"),
        ({"url": "http://host", "secret": "hush"}, "secret: Extra inputs"),
        ({}, "url: Field required"),
    ],
)
def test_a_wrong_setting_is_named(options: dict[str, str], message: str):
    with pytest.raises(ConfigError, match=message):
        load_destination("webhook", options)
