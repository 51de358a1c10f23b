"""An alert as attributes."""

from __future__ import annotations

import json
from pathlib import Path

from records import make_alert, make_correlation, make_health_alert

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


def test_an_alert_across_requests_names_them():
    attributes = mapping.attributes(make_correlation())
    assert attributes["saeguard.alert.kind"] == "correlation"
    assert attributes["saeguard.correlation.count"] == 2
    assert json.loads(attributes["saeguard.correlation.group"]) == {"tenant": "acme"}
    assert attributes["saeguard.correlation.requests"] == ("chatcmpl-7", "chatcmpl-1")


def test_an_alert_about_the_monitor_itself_speaks_of_no_request():
    attributes = mapping.attributes(make_health_alert(rule_name="saeguard.rules_refused"))
    assert attributes["saeguard.alert.kind"] == "health"
    assert attributes["security_rule.name"] == "saeguard.rules_refused"
    of_requests = ("gen_ai.", "saeguard.token.", "saeguard.coverage.", "saeguard.phase")
    assert not [key for key in attributes if key.startswith(of_requests)]


def test_what_became_of_a_stop_is_said():
    attributes = mapping.attributes(make_alert(action="stop", action_outcome="too_late"))
    assert attributes["saeguard.action"] == "stop"
    assert attributes["saeguard.action.outcome"] == "too_late"


def test_the_documentation_names_every_attribute():
    page = (Path(__file__).parents[3] / "docs" / "telemetry.md").read_text()
    request = {"lora": "a", "client": "c", "policy": "p"}
    links = {"deceit": "https://www.neuronpedia.org/m/3-res/5"}
    full = make_alert(**request, feature_links=links, action="stop", action_outcome="requested")
    names = mapping.span_attributes(full).keys() | mapping.attributes(make_correlation()).keys()
    assert len(names) > 35
    for name in names:
        parts = name.split(".")
        shown = {f"`{name}`", *(f"`.{'.'.join(parts[i:])}`" for i in (1, 2, 3))}
        assert any(each in page for each in shown), name


def test_a_span_says_where_and_why_in_words():
    unseen = SignalReading("fiction", "roleplay", "mean", float("nan"), "lt", 1.5, False, 2)
    alert = make_alert()
    attributes = mapping.span_attributes(
        make_alert(signals=[*alert.signals, unseen], lora=None, severity="critical")
    )
    assert attributes["input.value"] == "' pass' (reasoning, token 2 of chatcmpl-1)"
    assert attributes["output.value"].splitlines() == [
        "max 7.21",
        "peak: max of deceit is 7.21, ≥ 4 holds",
        "fiction: mean of roleplay is not observed, < 1.5 does not hold",
    ]
    metadata = json.loads(attributes["metadata"])
    assert (metadata["severity"], metadata["tenant"]) == ("critical", "acme")
    assert "lora" not in metadata


def test_a_span_about_the_monitor_itself_is_at_no_token():
    attributes = mapping.span_attributes(make_health_alert(message="blind"))
    assert "input.value" not in attributes
    assert attributes["output.value"] == "blind"
