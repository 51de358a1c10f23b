"""Which combinations of signals can be true together.

Signals that compare the same aggregate depend on each other: what is at least 5 is not below 3.
Trying one number on, between and beyond all thresholds of an aggregate shows every combination
that its signals can have. Aggregates are taken as independent of each other: what is called
impossible here is impossible, but not the other way round.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from math import ceil, floor, inf, prod

import numpy as np

from saeguard.rules.conditions import Bools
from saeguard.rules.model import Aggregate, Feature, SaeFeature, Signal

MAX_COMBINATIONS = 4096  # of twelve signals that do not depend on each other


def value_range(aggregate: Aggregate, features: Mapping[str, Feature]) -> tuple[float, float]:
    """The least and the largest value that the aggregate can ever have."""
    match aggregate.kind:
        case "count":
            return 0.0, float(aggregate.tokens)
        case "noisy_or":
            return 0.0, 1.0
    if aggregate.combine == "angle":
        return -180.0, 180.0
    read = [features[name] for name in aggregate.features]
    are_weights = all(feature.units == "weight" for feature in read)
    is_sum = aggregate.kind == "sum" or aggregate.combine in ("sum", "l2")
    never_negative = all(
        isinstance(feature.source, SaeFeature) or feature.units == "weight" for feature in read
    )
    low = 0.0 if never_negative or aggregate.combine == "l2" else -inf
    return low, 1.0 if are_weights and not is_sum else inf


def holds(signal: Signal, value: float) -> bool:
    """Whether the signal is true of a value."""
    match signal.comparison:
        case "gt":
            return value > signal.threshold
        case "gte":
            return value >= signal.threshold
        case "lt":
            return value < signal.threshold
        case "lte":
            return value <= signal.threshold
    low, high = signal.threshold, inf if signal.upper is None else signal.upper
    if low > high:  # an angle's range across 180 degrees
        return value >= low or value <= high
    return low <= value <= high


def outcomes(signals: Sequence[Signal], features: Mapping[str, Feature]) -> set[tuple[bool, ...]]:
    """What the signals, all of one aggregate, can be together where the aggregate has a value."""
    values = _telling_values(signals, features)
    return {tuple(holds(signal, value) for signal in signals) for value in values}


def truth_table(
    signals: Sequence[Signal], features: Mapping[str, Feature], missing: bool
) -> Bools | None:
    """Every combination the signals can have, [signals, combinations].

    Args:
        signals: distinct ones, of any aggregates.
        features: what the aggregates read.
        missing: whether an aggregate may also have no value, which makes its signals false.

    Returns:
        None when there are too many combinations to try.
    """
    rows_of: dict[Aggregate, list[int]] = {}
    for row, signal in enumerate(signals):
        rows_of.setdefault(signal.aggregate, []).append(row)
    choices = []
    for rows in rows_of.values():
        possible = outcomes([signals[row] for row in rows], features)
        if missing:
            possible.add((False,) * len(rows))
        choices.append(np.array(sorted(possible)))
    shape = [len(choice) for choice in choices]
    if prod(shape) > MAX_COMBINATIONS:
        return None
    table = np.empty((len(signals), prod(shape)), np.bool_)
    picks = np.indices(shape).reshape(len(shape), -1)
    for rows, choice, pick in zip(rows_of.values(), choices, picks, strict=True):
        table[rows] = choice[pick].T
    return table


def _telling_values(signals: Sequence[Signal], features: Mapping[str, Feature]) -> Iterable[float]:
    """A value on, between and beyond all the thresholds, as far as the aggregate can have it."""
    aggregate = signals[0].aggregate
    bounds = [signal.threshold for signal in signals]
    bounds += [signal.upper for signal in signals if signal.upper is not None]
    low, high = value_range(aggregate, features)
    if aggregate.kind == "count":
        values = {near for bound in bounds for near in _whole_numbers_near(bound)}
    else:
        edges = sorted({*bounds, *(edge for edge in (low, high) if abs(edge) < inf)})
        between = [(left + right) / 2 for left, right in pairwise(edges)]
        values = {*edges, *between, edges[0] - 1, edges[-1] + 1}
    return [value for value in {*values, low, high} if low <= value <= high]


def _whole_numbers_near(bound: float) -> tuple[float, ...]:
    return floor(bound), ceil(bound), floor(bound) - 1, ceil(bound) + 1
