"""The senders."""

from __future__ import annotations

import threading
import time

import pytest
from records import make_alert

from saeguard.monitor import delivery
from saeguard.monitor.delivery import DeliveryError, Sender
from saeguard.monitor.destinations import load_destination
from saeguard.monitor.errors import ConfigError
from saeguard.monitor.store import Store
from saeguard.monitor.store_file import reading


class CapturingDestination:
    """Keeps what it is given, unless told to fail."""

    name = "capturing"

    def __init__(self, poison=(), error=None):
        self.taken = []
        self.closed = False
        self.error = error
        self.arrived = threading.Event()
        self._poison = set(poison)

    def deliver(self, alerts):
        if self.error:
            raise self.error
        if any(alert.id in self._poison for alert in alerts):
            raise DeliveryError("poison", retriable=False)
        self.taken += alerts
        self.arrived.set()

    def close(self):
        self.closed = True


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "alerts.sqlite") as store:
        yield store


def fill(store, count):
    alerts = [make_alert() for _ in range(count)]
    for alert in alerts:
        store.add_alert(alert)
    store.flush()
    return alerts


def quarantined(store):
    with reading(store.path) as db:
        return [row for (row,) in db.execute("SELECT row FROM quarantine ORDER BY row")]


def test_every_alert_arrives_once_and_in_order(store):
    alerts = fill(store, 3 * delivery.BATCH_SIZE)
    destination = CapturingDestination()
    sender = Sender(store, destination)
    assert sender.drain(5)
    assert destination.taken == alerts
    assert destination.closed
    assert (sender.delivered, sender.attempts["taken"]) == (len(alerts), 3)


def test_a_commit_wakes_the_sender_at_once(store):
    destination = CapturingDestination()
    sender = Sender(store, destination, first_delay_s=60)
    fill(store, 1)
    assert destination.arrived.wait(2)
    sender.drain(5)


def test_a_new_sender_goes_on_where_the_last_one_stopped(store):
    fill(store, 5)
    Sender(store, CapturingDestination()).drain(5)
    later = fill(store, 2)
    destination = CapturingDestination()
    Sender(store, destination).drain(5)
    assert destination.taken == later


def test_an_outage_delays_alerts_and_loses_none(store):
    destination = CapturingDestination(error=DeliveryError("down", retriable=True))
    sender = Sender(store, destination, first_delay_s=0.01, max_delay_s=0.02)
    alerts = fill(store, 10)
    time.sleep(0.2)
    assert sender.pending == 10
    destination.error = None
    assert sender.drain(5)
    assert destination.taken == alerts
    assert sender.attempts["deferred"] > 3


def test_only_the_poison_alert_is_quarantined(store):
    alerts = fill(store, 100)
    destination = CapturingDestination(poison={alerts[37].id})
    sender = Sender(store, destination)
    assert sender.drain(5)
    assert destination.taken == alerts[:37] + alerts[38:]
    assert quarantined(store) == [38]


def test_the_quarantine_is_logged_with_the_alert_id(store, capsys):
    (alert,) = fill(store, 1)
    Sender(store, CapturingDestination(poison={alert.id})).drain(5)
    line = capsys.readouterr().err
    assert "alert_quarantined" in line
    assert alert.id in line


def test_a_fault_of_the_destination_does_not_end_its_thread(store):
    fill(store, 1)
    destination = CapturingDestination(error=ZeroDivisionError("a bug"))
    sender = Sender(store, destination)
    while not quarantined(store):
        time.sleep(0.01)
    destination.error = None
    (alert,) = fill(store, 1)
    assert sender.drain(5)
    assert destination.taken == [alert]


def test_whatever_goes_wrong_with_the_store_does_not_end_a_sender(store, monkeypatch):
    pending, faults = store.pending, iter([OSError("stale file handle"), RecursionError()])

    def failing(*args):
        if fault := next(faults, None):
            raise fault
        return pending(*args)

    monkeypatch.setattr(store, "pending", failing)
    alerts = fill(store, 3)
    destination = CapturingDestination()
    assert Sender(store, destination, first_delay_s=0.01).drain(30)
    assert destination.taken == alerts


def test_a_destination_that_is_too_slow_for_a_batch_gets_smaller_ones(store):
    class Slow(CapturingDestination):
        def deliver(self, alerts):
            if len(alerts) > 5:
                raise DeliveryError("timed out", retriable=True)
            super().deliver(alerts)

    alerts = fill(store, 30)
    destination = Slow()
    assert Sender(store, destination, first_delay_s=0.001).drain(30)
    assert destination.taken == alerts
    assert quarantined(store) == []


def test_draining_ends_in_time_and_leaves_the_rest_in_the_store(store):
    fill(store, 3)
    down = CapturingDestination(error=DeliveryError("down", retriable=True))
    sender = Sender(store, down, first_delay_s=0.05)
    start_s = time.monotonic()
    assert not sender.drain(0.2)
    assert time.monotonic() - start_s < 2
    assert store.num_pending("capturing") == 3


def test_destinations_are_found_by_their_kind():
    options = {"endpoint": "http://127.0.0.1:4318/"}
    assert load_destination("otlp", options).name == "otlp:http://127.0.0.1:4318"


@pytest.mark.parametrize(
    ("kind", "options", "reason"),
    [
        ("pigeon", {}, "no destination 'pigeon'.*otlp"),
        ("otlp", {}, "endpoint: Field required"),
        ("otlp", {"endpoint": "http://h", "colour": 1}, "colour: Extra inputs"),
        ("otlp", {"endpoint": "http://h", "timeout_s": 0}, "timeout_s: .* greater than 0"),
        ("otlp", {"endpoint": "http://h", "headers": {"X-Org": 1}}, "headers.X-Org.*: .* string"),
        ("otlp", {"endpoint": "http://h", "headers": {"a": "b\n"}}, "header 'a' cannot be sent"),
        ("otlp", {"endpoint": "https://h", "ca_file": "/dev/null"}, "read from /dev/null"),
        ("otlp", {"endpoint": "http://h:x"}, "not an http"),
        ("otlp", {"endpoint": "http://h", "signals": []}, "no signals"),
        ("otlp", {"endpoint": "http://h", "parenting": "uncle"}, "parenting: .*'root'"),
        ("otlp", {"endpoint": "file:///etc/passwd"}, "not an http"),
        ("otlp", {"endpoint": "http://user:secret@h"}, "must not hold a password"),
        ("otlp", {"endpoint": "http://h", "signals": ["smoke"]}, "signals.0: .*'logs'"),
    ],
)
def test_a_wrong_destination_is_a_configuration_error(kind, options, reason):
    with pytest.raises(ConfigError, match=reason):
        load_destination(kind, options)
