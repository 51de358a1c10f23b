"""The one place that knows semantic conventions: an alert as attributes, severity and ids.

Only `security_rule.*` is in a released convention (v1.44, development); those for guardrails are in
flux, so what they do not cover is `saeguard.*`.
"""

from __future__ import annotations

import hashlib
import json
import math
import uuid

import msgspec
from opentelemetry._logs import SeverityNumber

from saeguard.monitor.alerts import Alert, SignalReading

MAX_CHARS = 4096
"""Of one attribute: backends drop or refuse longer ones."""

Value = str | int | float | bool | tuple[str, ...]

SEVERITY_NUMBERS = {
    "info": SeverityNumber.INFO,
    "low": SeverityNumber.WARN,
    "medium": SeverityNumber.WARN2,
    "high": SeverityNumber.ERROR,
    "critical": SeverityNumber.FATAL,
}


def attributes(alert: Alert) -> dict[str, Value]:
    """The same for the log record and the span. None is left out, long text is cut."""
    values = _alert(alert) | _rule(alert)
    if alert.kind != "health":
        values |= _request(alert) | _evidence(alert) | _correlation(alert) | _coverage(alert)
    return _capped(values)


def span_attributes(alert: Alert) -> dict[str, Value]:
    """The same, and what tools for OpenInference such as Phoenix show in their columns: where the
    alert is, why it was raised, and what a reviewer filters by.
    """
    values: dict[str, Value | None] = {
        "output.value": "\n".join([alert.message, *map(_signal, alert.signals)]),
        "metadata": json.dumps(_metadata(alert)),
        "tag.tags": tuple(alert.tags),
    }
    if alert.kind != "health":
        values["input.value"] = _place(alert)
    return attributes(alert) | _capped(values)


def _capped(values: dict[str, Value | None]) -> dict[str, Value]:
    return {
        key: value[:MAX_CHARS] if isinstance(value, str) else value
        for key, value in values.items()
        if value is not None
    }


def trace_id(alert_id: str) -> int:
    """The uuid itself: sending an alert again makes the same span."""
    return uuid.UUID(alert_id).int


def span_id(alert_id: str) -> int:
    return int.from_bytes(hashlib.sha256(alert_id.encode()).digest()[:8])


def _alert(alert: Alert) -> dict[str, Value | None]:
    return {
        "saeguard.alert.id": alert.id,
        "saeguard.alert.kind": alert.kind,
        "saeguard.message": alert.message,
        "saeguard.watchlist": alert.watchlist,
    }


def _rule(alert: Alert) -> dict[str, Value | None]:
    return {
        "openinference.span.kind": "GUARDRAIL",
        "security_rule.uuid": alert.rule_id,
        "security_rule.name": alert.rule_name,
        "security_rule.category": alert.tags[0] if alert.tags else None,
        "security_rule.description": alert.rule_title,
        "security_rule.ruleset.name": alert.ruleset_name,
        "security_rule.version": alert.ruleset_version,
        "saeguard.ruleset.sha256": alert.ruleset_sha256,
        "saeguard.severity": alert.severity,
        "saeguard.status": alert.status,
        "saeguard.tags": tuple(alert.tags),
    }


def _request(alert: Alert) -> dict[str, Value | None]:
    return {
        "gen_ai.request.id": alert.request_id,
        "gen_ai.request.model": alert.model,
        "saeguard.request.engine_id": alert.req_id,
        "saeguard.lora": alert.lora,
        "saeguard.tenant": alert.tenant,
        "saeguard.client": alert.client,
        "saeguard.policy": alert.policy,
    }


def _evidence(alert: Alert) -> dict[str, Value | None]:
    decisive = next((s for s in alert.signals if s.holds), None)
    return {
        "saeguard.phase": alert.phase,
        "saeguard.token.first": alert.first_position,
        "saeguard.token.last": alert.position,
        "saeguard.token.text": alert.token,
        "saeguard.score": decisive.value if decisive else None,
        "saeguard.threshold": decisive.threshold if decisive else None,
        "saeguard.evidence": msgspec.json.encode(alert.signals).decode(),
        "saeguard.feature.labels": json.dumps(alert.feature_labels),
        "saeguard.feature.links": json.dumps(alert.feature_links) if alert.feature_links else None,
        "saeguard.action": alert.action,
        "saeguard.action.outcome": alert.action_outcome or None,
    }


def _correlation(alert: Alert) -> dict[str, Value | None]:
    evidence = alert.correlation
    if evidence is None:
        return {}
    return {
        "saeguard.correlation.type": evidence.type,
        "saeguard.correlation.timespan_s": evidence.timespan_s,
        "saeguard.correlation.count": evidence.count,
        "saeguard.correlation.group": json.dumps(evidence.group),
        "saeguard.correlation.rules": tuple(match.rule for match in evidence.matches),
        "saeguard.correlation.requests": tuple(match.request_id for match in evidence.matches),
    }


def _coverage(alert: Alert) -> dict[str, Value | None]:
    coverage = alert.coverage
    return {
        "saeguard.coverage.scheduled": coverage.scheduled,
        "saeguard.coverage.observed": coverage.observed,
        "saeguard.coverage.cached": coverage.cached,
        "saeguard.coverage.unseen": coverage.num_unseen,
        "saeguard.coverage.unseen_reasons": json.dumps(coverage.unseen),
    }


def _place(alert: Alert) -> str:
    place = f"{alert.phase}, token {alert.position} of {alert.request_id}"
    return place if alert.token is None else f"{alert.token!r} ({place})"


def _signal(signal: SignalReading) -> str:
    value = "not observed" if math.isnan(signal.value) else f"{signal.value:g}"
    holds = "holds" if signal.holds else "does not hold"
    return f"{signal.name}: {signal.agg} of {signal.feature} is {value}, {signal.wanted} {holds}"


def _metadata(alert: Alert) -> dict[str, str]:
    """Short texts only: cut JSON could not be read."""
    values = {
        "severity": alert.severity,
        "kind": alert.kind,
        "request": alert.request_id,
        "model": alert.model,
        "lora": alert.lora,
        "tenant": alert.tenant,
        "client": alert.client,
        "policy": alert.policy,
        "action": alert.action_outcome and f"{alert.action}: {alert.action_outcome}",
    }
    return {key: value[:200] for key, value in values.items() if value}
