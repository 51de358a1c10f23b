"""The durable records."""

from __future__ import annotations

import time
import uuid
from math import isnan
from typing import get_args

import msgspec
import pytest
from records import make_alert, make_request

from saeguard.monitor import alerts
from saeguard.monitor.alerts import Coverage, SignalReading
from saeguard.rules import Phase
from saeguard.rules.model import Severity


def test_ids_are_uuid7_and_rise_even_when_the_clock_steps_back(monkeypatch):
    now_ns = time.time_ns()
    make_id = alerts.AlertIds()
    ids = []
    for step_s in (0, 0, -60, -3600, 1):
        monkeypatch.setattr(time, "time_ns", lambda step_s=step_s: now_ns + step_s * 10**9)
        ids.append(make_id())
    assert ids == sorted(set(ids))
    assert {uuid.UUID(each).version for each in ids} == {7}


def test_an_alert_whose_signal_was_not_observed_survives_encoding():
    unseen = SignalReading("fiction", "roleplay", "mean", float("nan"), "gte", 1.5, False, 2)
    alert = alerts.decode_alert(alerts.encode(make_alert(signals=[unseen])))
    assert isnan(alert.signals[0].value)


def test_a_request_survives_encoding():
    record = make_request()
    assert alerts.decode_request(alerts.encode(record)) == record


def test_scores_are_read_as_tokens_by_features():
    assert make_request().score_array().shape == (3, 1)


def test_a_readable_request_is_valid_json_with_null_for_what_was_not_observed():
    plain = msgspec.json.decode(msgspec.json.encode(alerts.readable(make_request())))
    assert plain["scores"] == [[None], [0.0], [pytest.approx(7.21)]]
    assert plain["phases"] == ["prompt", "prompt", "reasoning"]


def test_coverage_is_complete_only_without_unseen_rows():
    assert Coverage(scheduled=3, observed=2, cached=1).complete
    assert not Coverage(scheduled=3, observed=2, unseen={"dropped_frame": 1}).complete


def test_phases_and_severities_are_those_of_the_rule_language():
    assert tuple(map(str, Phase)) == alerts.PHASES
    assert get_args(Severity) == alerts.SEVERITIES
