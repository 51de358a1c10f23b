"""Signals and conditions in plain words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from saeguard.rules.conditions import And, AtLeast, Condition, Name, Not, Or
from saeguard.rules.explain.words import Item, join, ordinal, tokens
from saeguard.rules.model import Aggregate, Comparison, Feature, Signal

_OPPOSITE: dict[Comparison, Comparison] = {"gt": "lte", "gte": "lt", "lt": "gte", "lte": "gt"}
_COMPARED = {"gt": "above {}", "gte": "at least {}", "lt": "below {}", "lte": "at most {}"}
_COUNTED = {"gt": "more than {}", "gte": "at least {}", "lt": "fewer than {}", "lte": "at most {}"}


class Wording:
    """Puts the conditions of one rule into words."""

    def __init__(self, signals: Sequence[Signal], features: Mapping[str, Feature]) -> None:
        self._signals = {signal.name: signal for signal in signals}
        self._features = features

    def condition(self, condition: Condition) -> Item:
        """What must be true, as a tree of `all of these`, `one of these` and signals."""
        match condition:
            case Name(name):
                return Item(f"{name}: {self.signal(self._signals[name])}")
            case Not(Name(name)):
                return Item(f"not {name}: {self.signal(self._signals[name], negated=True)}")
            case Not(Not(operand)):
                return self.condition(operand)
            case Not(operand):
                return self._several(operand, _NEGATED[type(operand)])
        return self._several(condition, _PLAIN[type(condition)])

    def signal(self, signal: Signal, negated: bool = False) -> str:
        """`the largest score of ... is at least 4`."""
        aggregate, source = signal.aggregate, self._source(signal.aggregate)
        last = f"the last {tokens(aggregate.tokens)}"
        match aggregate.kind:
            case "count":
                number = _compare(signal, _COUNTED, negated)
                return f"{number} of {last} score above {aggregate.over:g} on {source}"
            case "min_evidence" if signal.comparison in ("gt", "gte"):
                number = f"{'fewer than' if negated else 'at least'} {aggregate.k}"
                return f"{number} of {last} score {_compare(signal, _COMPARED)} on {source}"
        return f"{_measured(aggregate, source)} is {_compare(signal, _COMPARED, negated)}"

    def _several(self, condition: Condition, text: str) -> Item:
        assert isinstance(condition, And | Or | AtLeast)
        items = tuple(self.condition(operand) for operand in condition.operands)
        count = condition.count if isinstance(condition, AtLeast) else 0
        return Item(text.format(count=count, of=len(items)), items)

    def _source(self, aggregate: Aggregate) -> str:
        names = join(self._feature(name) for name in aggregate.features)
        match aggregate.combine:
            case "max":
                return f"{names} (the largest on each token)"
            case "sum":
                return f"{names} (added up on each token)"
            case "l2":
                return f"{names} (the root of the sum of squares on each token)"
        return names

    def _feature(self, name: str) -> str:
        label = self._features[name].label
        return f"`{name}` ({label})" if label else f"`{name}`"


_PLAIN = {
    And: "all of these are true:",
    Or: "at least one of these is true:",
    AtLeast: "at least {count} of these {of} are true:",
}
_NEGATED = {
    And: "not all of these are true:",
    Or: "none of these is true:",
    AtLeast: "fewer than {count} of these {of} are true:",
}


def _measured(aggregate: Aggregate, source: str) -> str:
    last = f"the last {tokens(aggregate.tokens)}"
    match aggregate.kind:
        case "value" if aggregate.combine == "angle":
            first, second = source.split(" and ", 1)
            return f"the angle in degrees from {first} towards {second}"
        case "value":
            return f"the score of {source}"
        case "max":
            return f"the largest score of {source} in {last}"
        case "mean":
            return f"the mean score of {source} over {last}"
        case "sum":
            return f"the sum of the scores of {source} over {last}"
        case "ema":
            return f"the moving average of {source} with a half-life of {tokens(aggregate.tokens)}"
        case "rolling_mean_max":
            span = f"any {tokens(aggregate.rolling)} in a row"
            return f"the largest mean score of {source} over {span} that end in {last}"
        case "topk_mean":
            return f"the mean of the {aggregate.k} largest scores of {source} in {last}"
        case "min_evidence":
            return f"the {ordinal(aggregate.k)} largest score of {source} in {last}"
        case "noisy_or":
            scale = f"a score of {aggregate.zero:g} counts as 0 and one of {aggregate.one:g} as 1"
            return f"the noisy-or of {source} over {last}, where {scale},"
        case "count":
            raise AssertionError("a count is worded as a whole")


def _compare(signal: Signal, words: Mapping[str, str], negated: bool = False) -> str:
    written = f" ({signal.written})" if signal.written else ""
    if signal.comparison != "between":
        comparison = _OPPOSITE[signal.comparison] if negated else signal.comparison
        return words[comparison].format(f"{signal.threshold:g}") + written
    low, high = signal.threshold, signal.threshold if signal.upper is None else signal.upper
    span = f"between {low:g} and {high:g}"
    if low > high:
        span = f"from {low:g} across 180 to {high:g}"
    return f"{'not ' if negated else ''}{span}{written}"
