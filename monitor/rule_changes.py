"""How two rule sets differ in what a replay does not show."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

from saeguard.rules import RuleSet
from saeguard.rules.model import Feature, Rule


@dataclass(frozen=True, slots=True)
class RuleChange:
    """What a rule of both sets says of its alerts, or does with them, is another thing."""

    rule: str
    key: str
    """As in a rule file: `severity`."""
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class FeatureChange:
    """Features of both sets are defined otherwise: scores that were recorded say nothing of it."""

    features: tuple[str, ...]
    key: str
    """As in a rule file: `sae.index`."""
    old: str
    new: str


def rule_changes(old: RuleSet, new: RuleSet) -> list[RuleChange]:
    """Of the rules that both have, by name."""
    before = {rule.name: _manner(rule) for rule in old.rules}
    return [
        RuleChange(rule.name, key, before[rule.name][key], value)
        for rule in new.rules
        if rule.name in before
        for key, value in _manner(rule).items()
        if value != before[rule.name][key]
    ]


def feature_changes(old: RuleSet, new: RuleSet) -> list[FeatureChange]:
    """Of the features that rules of both read; one for all that differ in the same."""
    alike: dict[tuple[str, str, str], list[str]] = {}
    for name in new.used_features():
        if name in old.used_features():
            for difference in _differences(old.features[name], new.features[name]):
                alike.setdefault(difference, []).append(name)
    return [FeatureChange(tuple(names), *difference) for difference, names in alike.items()]


def _manner(rule: Rule) -> dict[str, str]:
    return {
        "severity": rule.severity,
        "action": rule.action,
        "emit": str(rule.emit).lower(),
        "mandatory": str(rule.mandatory).lower(),
        "title": rule.title,
        "message": rule.message.text,
        "min_coverage": f"{rule.min_coverage:.6g}",
    }


def _differences(old: Feature, new: Feature) -> Iterator[tuple[str, str, str]]:
    before, after = _definition(old), _definition(new)
    for key in dict.fromkeys([*before, *after]):
        pair = str(before.get(key, "nothing")), str(after.get(key, "nothing"))
        if pair[0] != pair[1]:
            yield key, *pair


def _definition(feature: Feature) -> dict[str, object]:
    source = feature.source
    keys = {f"{source.kind}.{key}": value for key, value in asdict(source).items()}
    known = keys | {"units": feature.units, "max": feature.max_activation}
    return {key: value for key, value in known.items() if value is not None}
