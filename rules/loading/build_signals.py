"""From checked signal entries to `Signal`s, with every threshold as a number."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from saeguard.rules.errors import RuleError
from saeguard.rules.loading import signal_syntax as syntax
from saeguard.rules.loading.document import Document, KeyPath
from saeguard.rules.loading.units import parse_percentage, parse_tokens
from saeguard.rules.model import Aggregate, Feature, Signal

_Entry = syntax.SignalEntry


class SignalBuilder:
    """Builds signals, and gathers what is wrong with their thresholds."""

    def __init__(self, features: Mapping[str, Feature]) -> None:
        self._features = features
        self.errors: list[RuleError] = []

    def build(self, name: str, entry: Any, document: Document, path: KeyPath) -> Signal | None:
        """The signal, or None when that cannot be because of an error."""
        if not all(feature in self._features for feature in _names(entry)):
            return None  # reported as unknown
        numbers = _Numbers(entry, self._features, document, path)
        comparison = next(key for key in syntax.COMPARISONS if getattr(entry, key) is not None)
        threshold, upper, written = numbers.comparison(comparison)
        aggregate = _aggregate(entry, numbers)
        self.errors += numbers.errors
        if numbers.errors:
            return None
        where = document.key_at(path)
        return Signal(name, aggregate, comparison, threshold, upper, written, location=where)


class _Numbers:
    """The numbers of one signal, parts of a maximum made absolute."""

    def __init__(
        self, entry: Any, features: Mapping[str, Feature], document: Document, path: KeyPath
    ) -> None:
        self.entry, self.document, self.path = entry, document, path
        self.maxima = {name: features[name].max_activation for name in _names(entry)}
        self.errors: list[RuleError] = []

    def at(self, *key: str | int) -> float:
        """The number at a key, or at an index of its list."""
        value = getattr(self.entry, str(key[0]))
        if len(key) > 1:
            value = value[key[1]]
        if not isinstance(value, str):
            return float(value)
        return self._maximum(key, value) * parse_percentage(value) / 100

    def comparison(self, key: str) -> tuple[float, float | None, str]:
        """Threshold, upper bound, and how they are written where that is not as numbers."""
        value = getattr(self.entry, key)
        if key != "between":
            return self.at(key), None, value if isinstance(value, str) else ""
        low, high = self.at(key, 0), self.at(key, 1)
        if self.entry.combine == "angle":
            if not self.errors and not all(-180 <= bound <= 180 for bound in (low, high)):
                self._report((key,), "an angle is between -180 and 180 degrees")
        elif low > high:
            self._report((key,), f"the lower bound {low:g} is above the upper bound {high:g}")
        parts = any(isinstance(bound, str) for bound in value)
        return low, high, f"[{value[0]}, {value[1]}]" if parts else ""

    def _maximum(self, key: tuple[str | int, ...], written: str) -> float:
        if self.entry.combine == "angle":
            self._report(key, f"'{written}' has no meaning: an angle has no max")
            return math.nan
        unknown = [name for name, maximum in self.maxima.items() if maximum is None]
        if unknown:
            self._report(key, f"'{written}' needs the max of feature '{unknown[0]}'")
            return math.nan
        maxima = [maximum or 0.0 for maximum in self.maxima.values()]
        match self.entry.combine:
            case "sum":
                return math.fsum(maxima)
            case "l2":
                return math.hypot(*maxima)
        return max(maxima)

    def _report(self, key: tuple[str | int, ...], message: str) -> None:
        where = self.document.value_at((*self.path, *key))
        self.errors.append(where.error(f"{key[0]}: {message}"))

    def increasing(self, low: str, high: str) -> tuple[float, float]:
        """Two numbers of which the second must be the greater one."""
        bounds = self.at(low), self.at(high)
        if bounds[0] >= bounds[1]:
            self._report((high,), f"{bounds[1]:g} is not above {low}, which is {bounds[0]:g}")
        return bounds


def _names(entry: _Entry) -> list[str]:
    return entry.features or [entry.feature or ""]


def _aggregate(entry: Any, numbers: _Numbers) -> Aggregate:
    features, kind, combine = tuple(_names(entry)), entry.agg, entry.combine
    match entry:
        case syntax.ValueSignal():
            return Aggregate(features, kind, combine)
        case syntax.EmaSignal():
            return Aggregate(features, kind, combine, parse_tokens(entry.half_life))
    tokens = parse_tokens(entry.window)
    match entry:
        case syntax.CountSignal():
            return Aggregate(features, kind, combine, tokens, over=numbers.at("over"))
        case syntax.RollingMeanMaxSignal():
            rolling = parse_tokens(entry.rolling)
            return Aggregate(features, kind, combine, tokens, rolling=rolling)
        case syntax.TopkMeanSignal() | syntax.MinEvidenceSignal():
            return Aggregate(features, kind, combine, tokens, k=entry.k)
        case syntax.NoisyOrSignal():
            zero, one = numbers.increasing("zero", "one")
            return Aggregate(features, kind, combine, tokens, zero=zero, one=one)
    return Aggregate(features, kind, combine, tokens)
