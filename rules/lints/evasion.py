"""Lints of rules that a request can get around."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date

from saeguard.rules.lints.finding import Remark, about
from saeguard.rules.model import RuleSet


def claimed_exemption(ruleset: RuleSet, today: date) -> Iterator[Remark]:
    """A rule with `mandatory: true` that looks away from some tenants or clients. Requests say
    themselves whose they are, unless a proxy says it for them, so anybody may claim to be one of
    these. Make sure that a proxy does, and silence this."""
    for rule in ruleset.rules:
        if not rule.mandatory:
            continue
        for exemption in rule.exceptions:
            has_ended = exemption.expires is not None and exemption.expires < today
            if (exemption.tenants or exemption.clients) and not has_ended:
                message = f"exception '{exemption.name}' lets off whoever claims to be meant"
                yield Remark(exemption.location or rule.location, message, rule.location)
        if rule.scope.tenants:
            yield about(rule, "its scope leaves out whoever claims another tenant, or none")


def optional_stop(ruleset: RuleSet, today: date) -> Iterator[Remark]:
    """A rule with `action: stop` that clients can opt out of, where saeguard.yaml says
    `allow_opt_out: true`. Say `mandatory: true` if it is to hold for everybody."""
    for rule in ruleset.rules:
        if rule.action == "stop" and rule.allows_opt_out:
            yield about(rule, f"clients can opt out of rule '{rule.name}', which stops requests")
