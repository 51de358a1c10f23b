"""Alerts over OTLP, from the store to a receiver."""

from __future__ import annotations

import threading
import time

import pytest
from opentelemetry import trace
from opentelemetry._logs import get_logger_provider
from records import make_alert

from saeguard.integrations.http import Reply
from saeguard.integrations.otel import OtlpDestination, OtlpReceiver
from saeguard.integrations.otel.http_transport import _protobuf
from saeguard.monitor.delivery import DeliveryError, Sender
from saeguard.monitor.logging import log_alert
from saeguard.monitor.store import Store
from saeguard.monitor.store_file import reading

CLIENT_TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture
def receiver():
    with OtlpReceiver() as receiver:
        yield receiver


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "alerts.sqlite") as store:
        yield store


def fill(store, count):
    alerts = [make_alert() for _ in range(count)]
    for alert in alerts:
        store.add_alert(alert)
    store.flush()
    return [alert.id for alert in alerts]


def test_after_an_outage_every_alert_arrives_exactly_once(receiver, store):
    receiver.fail_with(503)
    threading.Timer(2.0, receiver.recover).start()
    sender = Sender(store, OtlpDestination(receiver.endpoint), first_delay_s=0.1)
    ids = fill(store, 500)
    assert sender.drain(20)
    assert receiver.alert_ids() == ids
    assert sender.attempts["deferred"] > 1


def test_only_the_alert_that_the_server_rejects_is_quarantined(receiver, store):
    ids = fill(store, 50)
    receiver.reject([ids[20]])
    sender = Sender(store, OtlpDestination(receiver.endpoint))
    assert sender.drain(20)
    assert set(receiver.alert_ids()) == set(ids) - {ids[20]}
    with reading(store.path) as db:
        (row, reason), *others = db.execute("SELECT row, reason FROM quarantine").fetchall()
    assert (row, others) == (21, [])
    assert "1 rejected" in reason


@pytest.mark.parametrize(("status", "is_told"), [(404, True), (405, True), (503, False)])
def test_of_a_server_that_may_take_no_logs_it_says_what_to_configure(receiver, status, is_told):
    receiver.fail_with(status)
    with pytest.raises(DeliveryError) as raised:
        OtlpDestination(receiver.endpoint).deliver([make_alert()])
    assert ("signals: [traces]" in str(raised.value)) is is_told
    assert raised.value.retriable


def test_log_record_span_and_log_line_carry_the_same_alert_id(receiver, capsys):
    alert = make_alert()
    OtlpDestination(receiver.endpoint, service_name="guard").deliver([alert])
    log_alert(alert)
    (log,), (span,) = receiver.logs, receiver.spans
    assert log.attributes["saeguard.alert.id"] == span.attributes["saeguard.alert.id"] == alert.id
    assert (log.trace_id, log.span_id) == (span.trace_id, span.span_id)
    assert alert.id in capsys.readouterr().err
    assert log.service_name == "guard"


def test_the_event_has_the_severity_and_the_message_of_the_alert(receiver):
    OtlpDestination(receiver.endpoint).deliver([make_alert(severity="critical")])
    (log,) = receiver.logs
    assert (log.event_name, log.severity_number, log.body) == ("saeguard.alert", 21, "max 7.21")


def test_the_span_is_a_root_that_links_to_the_client_even_if_that_is_not_sampled(receiver):
    headers = {"traceparent": f"00-{CLIENT_TRACE}-b7ad6b7169203331-00"}
    alert = make_alert(trace_headers=headers)
    OtlpDestination(receiver.endpoint).deliver([alert])
    (span,) = receiver.spans
    assert (span.parent_id, span.links) == ("", [CLIENT_TRACE])
    assert (span.start_ns, span.end_ns) == (alert.forward_time_ns, alert.time_ns)
    assert span.name == "deceit_in_reasoning"
    assert span.status == "Deceit in the chain of thought"


@pytest.mark.parametrize(
    ("parenting", "flags", "is_child"),
    [("child", "00", True), ("auto", "00", False), ("auto", "01", True), ("root", "01", False)],
)
def test_the_span_is_in_the_client_s_trace_where_that_is_wanted(
    receiver, parenting, flags, is_child
):
    headers = {"traceparent": f"00-{CLIENT_TRACE}-b7ad6b7169203331-{flags}"}
    alert = make_alert(trace_headers=headers)
    OtlpDestination(receiver.endpoint, parenting=parenting).deliver([alert])
    (span,), (log,) = receiver.spans, receiver.logs
    assert (log.trace_id, log.span_id) == (span.trace_id, span.span_id)
    assert (span.trace_id == CLIENT_TRACE) is is_child
    assert span.parent_id == ("b7ad6b7169203331" if is_child else "")
    assert span.links == ([] if is_child else [CLIENT_TRACE])


def test_a_child_without_a_client_s_trace_is_a_root(receiver):
    OtlpDestination(receiver.endpoint, parenting="child").deliver([make_alert()])
    assert (receiver.spans[0].parent_id, receiver.spans[0].links) == ("", [])


@pytest.mark.parametrize("headers", [None, {}, {"traceparent": "\x1bnonsense"}])
def test_without_a_client_trace_there_is_no_link(receiver, headers):
    OtlpDestination(receiver.endpoint).deliver([make_alert(trace_headers=headers)])
    assert receiver.spans[0].links == []


def test_sending_an_alert_again_makes_the_same_span(receiver):
    alert = make_alert()
    for _ in range(2):
        OtlpDestination(receiver.endpoint).deliver([alert])
    assert receiver.spans[0] == receiver.spans[1]


def test_a_destination_without_logs_gets_spans_only(receiver):
    OtlpDestination(receiver.endpoint, signals=["traces"]).deliver([make_alert()])
    assert (len(receiver.logs), len(receiver.spans)) == (0, 1)


@pytest.mark.parametrize(
    ("status", "retriable"),
    [(400, False), (413, False), (401, True), (404, True), (408, True), (429, True), (503, True)],
)
def test_a_status_that_is_not_about_the_alerts_holds_them_back(receiver, status, retriable):
    receiver.fail_with(status)
    with pytest.raises(DeliveryError, match=str(status)) as caught:
        OtlpDestination(receiver.endpoint).deliver([make_alert()])
    assert caught.value.retriable is retriable


def test_an_unreachable_server_is_tried_again_later(receiver):
    receiver.close()
    with pytest.raises(DeliveryError) as caught:
        OtlpDestination(receiver.endpoint).deliver([make_alert()])
    assert caught.value.retriable


def test_a_slow_server_is_given_up_on_in_time(receiver):
    receiver.delay_s = 1.0
    start_s = time.monotonic()
    with pytest.raises(DeliveryError) as caught:
        OtlpDestination(receiver.endpoint, timeout_s=0.1).deliver([make_alert()])
    assert caught.value.retriable
    assert time.monotonic() - start_s < 0.9


def test_a_login_page_that_answers_200_is_not_success():
    with pytest.raises(DeliveryError, match="text/html"):
        _protobuf("http://h", Reply("text/html", b"<form>"))
    assert _protobuf("http://h", Reply("application/json", b"{}")) == b""


def test_the_global_providers_stay_as_they_were(receiver):
    before = trace.get_tracer_provider(), get_logger_provider()
    OtlpDestination(receiver.endpoint).deliver([make_alert()])
    assert (trace.get_tracer_provider(), get_logger_provider()) == before
