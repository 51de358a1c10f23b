"""Metrics over OTLP."""

from __future__ import annotations

import socket

from opentelemetry import metrics
from running_monitor import wait_for

from saeguard.integrations.otel import OtlpMetrics, OtlpReceiver
from saeguard.monitor.histograms import Distribution
from saeguard.monitor.store_file import StoreError


def sent(totals):
    with OtlpReceiver() as receiver:
        exporter = OtlpMetrics(receiver.endpoint, lambda: totals, interval_s=60)
        exporter.flush()
        received = list(receiver.metrics)
        exporter.close()
    return {(m.name, tuple(sorted(m.attributes.items()))): m.value for m in received}


def test_a_rule_that_has_not_fired_is_sent_as_zero():
    key = ("saeguard.alerts", (("rule", "deceit"), ("severity", "high")))
    assert sent({"alerts/deceit/high": 0})[key] == 0


def test_tokens_are_counted_by_what_became_of_them():
    points = sent({"tokens/observed": 7, "tokens/unseen/dropped_frame": 2})
    assert points == {
        ("saeguard.tokens", (("coverage", "observed"),)): 7,
        ("saeguard.tokens", (("coverage", "unseen"), ("reason", "dropped_frame"))): 2,
    }


def test_metrics_without_attributes_and_names_with_slashes_are_understood():
    points = sent({"taps/alive": 1, "frames/dropped": 3, "delivery/pending/otlp:http://h:1": 4})
    assert points == {
        ("saeguard.taps.alive", ()): 1,
        ("saeguard.frames.dropped", ()): 3,
        ("saeguard.delivery.pending", (("destination", "otlp:http://h:1"),)): 4,
    }


def test_a_collection_reads_the_totals_once():
    num_read = 0

    def totals() -> dict[str, int]:
        nonlocal num_read
        num_read += 1
        return {"taps/alive": 1}

    with OtlpReceiver() as receiver:
        exporter = OtlpMetrics(receiver.endpoint, totals, interval_s=60)
        exporter.flush()
        assert num_read == 1
        exporter.close()
        assert num_read == 2, "the last values are sent, too"


def test_what_is_counted_in_buckets_arrives_as_a_histogram():
    values = Distribution((0.5, 1.0), (3, 0, 2), 4.25)
    with OtlpReceiver() as receiver:
        exporter = OtlpMetrics(receiver.endpoint, dict, lambda: {"feature/score/deceit": values})
        exporter.flush()
        (received, *_) = receiver.histograms
        exporter.close()
    assert (received.name, received.attributes) == ("saeguard.feature.score", {"feature": "deceit"})
    assert (received.bounds, received.counts, received.sum) == ([0.5, 1.0], [3, 0, 2], 4.25)


def test_totals_that_could_not_be_read_are_asked_for_again():
    num_read = 0

    def totals() -> dict[str, int]:
        nonlocal num_read
        num_read += 1
        if num_read == 1:
            raise StoreError("the store is busy")
        return {"taps/alive": 1}

    with OtlpReceiver() as receiver:
        exporter = OtlpMetrics(receiver.endpoint, totals, interval_s=0.01)
        wait_for(lambda: bool(receiver.metrics), 60)
        exporter.close()


def test_the_global_meter_provider_stays_as_it_was():
    before = metrics.get_meter_provider()
    sent({})
    assert metrics.get_meter_provider() is before


def test_a_server_that_never_answers_does_not_hold_up_the_end():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        exporter = OtlpMetrics(endpoint, dict, interval_s=0.01, timeout_s=600)
        silent.accept()  # it is sending
        exporter.close()
