"""An alert as attributes."""

from __future__ import annotations

import json

from records import make_alert

from saeguard.integrations.otel import mapping
from saeguard.monitor.alerts import SEVERITIES, SignalReading


def test_every_severity_has_its_number():
    numbers = [mapping.SEVERITY_NUMBERS[severity].value for severity in SEVERITIES]
    assert numbers == [9, 13, 14, 17, 21]


def test_an_alert_names_its_rule_its_request_and_its_coverage():
    attributes = mapping.attributes(make_alert())
    expected = {
        "security_rule.name": "deceit_in_reasoning",
        "security_rule.ruleset.name": "core",
        "gen_ai.request.id": "chatcmpl-1",
        "gen_ai.request.model": "org/model",
        "openinference.span.kind": "GUARDRAIL",
        "saeguard.score": 7.21,
        "saeguard.coverage.unseen": 1,
    }
    assert expected.items() <= attributes.items()


def test_text_that_was_not_captured_is_no_attribute():
    assert "saeguard.token.text" not in mapping.attributes(make_alert(token=None))


def test_evidence_is_valid_json_even_where_a_signal_was_not_observed():
    unseen = SignalReading("fiction", "roleplay", "mean", float("nan"), "gte", 1.5, False, 2)
    attributes = mapping.attributes(make_alert(signals=[unseen]))
    assert json.loads(attributes["saeguard.evidence"])[0]["value"] is None
    assert "saeguard.score" not in attributes


def test_long_text_is_cut():
    attributes = mapping.attributes(make_alert(message="x" * 100_000))
    assert len(attributes["saeguard.message"]) == mapping.MAX_CHARS
