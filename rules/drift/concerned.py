"""Which rules read a feature, and from which score on it matters to them."""

from __future__ import annotations

from dataclasses import dataclass

from saeguard.rules.model import RuleSet, Signal

_OF_SCORES = ("value", "max", "mean", "ema", "rolling_mean_max", "topk_mean")
"""Aggregates in the unit of the scores themselves."""


@dataclass(frozen=True, slots=True)
class Threshold:
    """A score that decides something."""

    rule: str
    signal: str
    score: float


def thresholds_of(ruleset: RuleSet) -> dict[str, tuple[Threshold, ...]]:
    """Of every feature that some rule reads. None where a rule's number is no score: of a sum, or
    of several features together.
    """
    found: dict[str, list[Threshold]] = {name: [] for name in ruleset.used_features()}
    for rule in ruleset.rules:
        for signal in rule.signals:
            score = _score(signal)
            if score is not None:
                for feature in signal.aggregate.features:
                    found[feature].append(Threshold(rule.name, signal.name, score))
    return {feature: tuple(thresholds) for feature, thresholds in found.items()}


def rules_of(ruleset: RuleSet, feature: str) -> tuple[str, ...]:
    """Names of the rules that read it."""
    return tuple(rule.name for rule in ruleset.rules if feature in rule.features)


def _score(signal: Signal) -> float | None:
    aggregate = signal.aggregate
    if aggregate.combine is not None:
        return None
    if aggregate.kind == "count":
        return aggregate.over
    return signal.threshold if aggregate.kind in _OF_SCORES else None
