"""Alerts and metrics over OTLP/gRPC, to a real server."""

from __future__ import annotations

import sys
from pathlib import Path

import grpc
import pytest
from certificates import self_signed
from grpc_receiver import GrpcReceiver
from records import fill, make_alert
from running_monitor import Monitor, running_monitor, wait_for
from tcp_proxy import TcpProxy

from saeguard.integrations.otel import OtlpDestination
from saeguard.monitor.delivery import DeliveryError, Sender
from saeguard.monitor.destinations import load_destination
from saeguard.monitor.errors import ConfigError
from saeguard.monitor.spool import status
from saeguard.monitor.store import Store


@pytest.fixture
def receiver():
    with GrpcReceiver() as receiver:
        yield receiver


@pytest.fixture
def store(tmp_path: Path):
    with Store(tmp_path / "alerts.sqlite") as store:
        yield store


def destination(
    receiver: GrpcReceiver, timeout_s: float = 60.0, **options: object
) -> OtlpDestination:
    return OtlpDestination(receiver.endpoint, protocol="grpc", timeout_s=timeout_s, **options)


def test_an_alert_is_a_log_event_and_a_span_of_the_same_ids(receiver: GrpcReceiver):
    alert = make_alert()
    destination(receiver, service_name="guard").deliver([alert])
    (log,), (span,) = receiver.logs, receiver.spans
    assert log.attributes["saeguard.alert.id"] == span.attributes["saeguard.alert.id"] == alert.id
    assert (log.trace_id, log.span_id) == (span.trace_id, span.span_id)
    assert log.service_name == "guard"


def test_alerts_and_metrics_of_a_running_monitor_survive_a_server_that_is_killed(
    tmp_path: Path, receiver: GrpcReceiver, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("ORG", "red")
    headers = {"X-Org": {"env": "ORG"}}
    place = {"endpoint": receiver.endpoint, "protocol": "grpc", "headers": headers}
    config = {
        "destinations": [{"kind": "otlp", **place}],
        "metrics": {"interval_s": 0.2, **place},
    }

    def is_counted(monitor: Monitor, count: int) -> bool:
        """Whether the newest metrics say that so many have raised an alert."""
        values = [m.value for m in list(receiver.metrics) if m.name == "saeguard.alerts"]
        return bool(values) and values[-1] == count

    log = tmp_path / "log"
    with log.open("w") as stderr, running_monitor(tmp_path, stderr, **config) as monitor:
        monitor.lie_once("req-1")
        wait_for(lambda: len(set(receiver.alert_ids())) == 1, 30)
        wait_for(lambda: is_counted(monitor, 1), 30)
        assert receiver.metadata["x-org"] == "red"
        receiver.stop()
        for i in range(2, 12):
            monitor.lie_once(f"req-{i}")
        wait_for(lambda: len(monitor.alerts()) == 11, 30)
        wait_for(lambda: "delivery_deferred" in log.read_text(), 30)
        wait_for(lambda: "metrics_not_taken" in log.read_text(), 30)
        receiver.start()
        wait_for(lambda: len(set(receiver.alert_ids())) == 11, 60)  # one may have come twice
        wait_for(lambda: is_counted(monitor, 11), 60)
        monitor.stop()
    assert set(receiver.alert_ids()) == {alert.id for alert in monitor.alerts()}
    assert log.read_text().count("metrics_taken_again") == 1


@pytest.mark.parametrize("code", ["UNAVAILABLE", "RESOURCE_EXHAUSTED", "UNAUTHENTICATED"])
def test_after_an_outage_every_alert_arrives_exactly_once(
    receiver: GrpcReceiver, store: Store, code: str
):
    receiver.fail_with(grpc.StatusCode[code])
    sender = Sender(store, destination(receiver), first_delay_s=0.05)
    ids = fill(store, 200)
    wait_for(lambda: receiver.num_failed >= 3, 30)
    receiver.recover()
    assert sender.drain(60)
    assert receiver.alert_ids() == ids
    assert sender.attempts["refused"] == 0


def test_only_the_alert_that_the_server_rejects_is_quarantined(
    receiver: GrpcReceiver, store: Store
):
    ids = fill(store, 50)
    receiver.reject([ids[20]])
    sender = Sender(store, destination(receiver))
    assert sender.drain(60)
    assert set(receiver.alert_ids()) == set(ids) - {ids[20]}
    (found,) = status(store.path).destinations
    assert found.num_quarantined == 1
    assert "1 rejected" in str(found.last_reason)


def test_an_alert_that_the_server_calls_invalid_does_not_hold_back_the_others(
    receiver: GrpcReceiver, store: Store
):
    ids = fill(store, 20)
    receiver.refuse(ids[7])
    sender = Sender(store, destination(receiver))
    assert sender.drain(60)
    assert set(receiver.alert_ids()) == set(ids) - {ids[7]}
    (found,) = status(store.path).destinations
    assert found.num_quarantined == 1
    assert "INVALID_ARGUMENT: told to" in str(found.last_reason)


def test_a_server_that_takes_smaller_messages_only_gets_smaller_ones(
    receiver: GrpcReceiver, store: Store
):
    receiver.stop()
    receiver.start(max_receive_message_length=20_000)
    ids = fill(store, 64)
    sender = Sender(store, destination(receiver), first_delay_s=0.01)
    assert sender.drain(60)
    assert set(receiver.alert_ids()) == set(ids)
    assert sender.attempts["refused"] == 0
    assert sender.attempts["deferred"] > 0


@pytest.mark.parametrize(
    ("code", "is_retriable"),
    [
        ("UNAVAILABLE", True),
        ("DEADLINE_EXCEEDED", True),
        ("RESOURCE_EXHAUSTED", True),
        ("ABORTED", True),
        ("INTERNAL", True),
        ("UNAUTHENTICATED", True),
        ("PERMISSION_DENIED", True),
        ("NOT_FOUND", True),
        ("INVALID_ARGUMENT", False),
        ("FAILED_PRECONDITION", False),
    ],
)
def test_only_what_speaks_of_the_alerts_refuses_them(
    receiver: GrpcReceiver, code: str, is_retriable: bool
):
    receiver.fail_with(grpc.StatusCode[code])
    with pytest.raises(DeliveryError, match=f"{code}: told to") as caught:
        destination(receiver).deliver([make_alert()])
    assert caught.value.retriable is is_retriable


def test_a_backend_that_takes_traces_only_holds_nothing_back_when_told_so(receiver: GrpcReceiver):
    receiver.stop()
    receiver.signals = ("traces",)
    receiver.start()
    destination(receiver, signals=["traces"]).deliver([make_alert()])
    assert len(receiver.spans) == 1
    with pytest.raises(DeliveryError, match="UNIMPLEMENTED") as caught:
        destination(receiver).deliver([make_alert()])
    assert caught.value.retriable


def test_a_slow_server_is_given_up_on(receiver: GrpcReceiver):
    receiver.delay_s = 2.0
    with pytest.raises(DeliveryError, match="DEADLINE_EXCEEDED") as caught:
        destination(receiver, timeout_s=0.5).deliver([make_alert()])
    assert caught.value.retriable


def test_a_connection_that_died_silently_is_replaced(receiver: GrpcReceiver, store: Store):
    with TcpProxy(receiver.port) as proxy:
        endpoint = f"http://127.0.0.1:{proxy.port}"
        through = OtlpDestination(endpoint, protocol="grpc", timeout_s=1.0)
        sender = Sender(store, through, first_delay_s=0.05)
        (first,) = fill(store, 1)
        wait_for(lambda: receiver.alert_ids() == [first], 60)
        wait_for(lambda: sender.pending == 0, 60)
        proxy.go_dead()
        (second,) = fill(store, 1)
        assert sender.drain(60)
    assert set(receiver.alert_ids()) == {first, second}
    assert sender.attempts["deferred"] > 0


def test_what_comes_after_closing_is_not_refused(receiver: GrpcReceiver):
    """The sender's thread may be about to send when the monitor ends: its alerts must wait."""
    closed = destination(receiver)
    closed.close()
    with pytest.raises(DeliveryError) as caught:
        closed.deliver([make_alert()])
    assert caught.value.retriable


def test_tls_with_a_private_authority(tmp_path: Path):
    own = self_signed()
    (tmp_path / "ca.pem").write_bytes(own.certificate)
    credentials = grpc.ssl_server_credentials([(own.key, own.certificate)])
    with GrpcReceiver(credentials) as receiver:
        alert = make_alert()
        destination(receiver, ca_file=tmp_path / "ca.pem").deliver([alert])
        assert receiver.alert_ids() == [alert.id]
        with pytest.raises(DeliveryError, match="UNAVAILABLE") as caught:
            destination(receiver).deliver([alert])
    assert caught.value.retriable


def test_http_to_a_port_for_grpc_is_said_to_be_that(receiver: GrpcReceiver):
    with pytest.raises(DeliveryError, match="not HTTP; is the port one for gRPC") as caught:
        OtlpDestination(receiver.endpoint, timeout_s=60.0).deliver([make_alert()])
    assert caught.value.retriable


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"endpoint": "http://localhost"}, "has to be a host with a port"),
        ({"endpoint": "http://localhost:4317/v1/logs"}, "has to be a host with a port"),
        ({"endpoint": "localhost:4317"}, "is not an http"),
        ({"headers": {"grpc-x": "a"}}, "header 'grpc-x' cannot be sent"),
        ({"headers": {"key-bin": "a"}}, "header 'key-bin' cannot be sent"),
        ({"protocol": "smoke"}, "protocol: .*'http' or 'grpc'"),
    ],
)
def test_a_wrong_setting_is_named(options: dict[str, object], message: str):
    usual = {"endpoint": "http://localhost:4317", "protocol": "grpc"}
    with pytest.raises(ConfigError, match=message):
        load_destination("otlp", usual | options)


def test_without_the_package_the_command_to_install_it_is_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "grpc", None)
    monkeypatch.delitem(sys.modules, "saeguard.integrations.otel.grpc_transport", raising=False)
    with pytest.raises(ConfigError, match=r"pip install 'saeguard\[grpc\]'"):
        load_destination("otlp", {"endpoint": "http://localhost:4317", "protocol": "grpc"})
