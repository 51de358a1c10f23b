"""Rules, matches and events made by hand, without files and without an engine."""

from __future__ import annotations

from pathlib import Path

from saeguard.rules import Match, Phase, RequestContext, Rule, RuleSet
from saeguard.rules.conditions import parse_condition
from saeguard.rules.errors import Location
from saeguard.rules.matches import Event
from saeguard.rules.model import Correlation
from saeguard.rules.scope import Scope
from saeguard.rules.template import parse_template


def make_rule(name: str, **fields) -> Rule:
    defaults = {
        "id": f"id of {name}",
        "name": name,
        "title": name,
        "description": "",
        "status": "test",
        "severity": "low",
        "scope": Scope(frozenset({Phase.ANSWER})),
        "signals": (),
        "detection": parse_condition("s"),
        "message": parse_template("")[0],
        "location": Location(Path("rules.yaml")),
    }
    return Rule(**defaults | fields)


def make_ruleset(*rules: Rule) -> RuleSet:
    return RuleSet("set", "1", "0" * 64, {}, rules)


def correlation(type, rules, group_by=(), timespan_s=600, gte=1, **fields) -> Correlation:
    return Correlation(type, tuple(rules), tuple(group_by), timespan_s, "gte", gte, **fields)


def event(rule, time_s, key="r", **context) -> Event:
    return Event(rule, key, RequestContext(**context), round(time_s * 1e9))


def make_match(rule: Rule, key="r", limited=False) -> Match:
    return Match(rule, key, 7, 7, Phase.ANSWER, {}, limited)
