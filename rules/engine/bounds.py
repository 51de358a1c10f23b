"""What must have been seen before a signal can hold: the bounds that let the engine skip.

Most scores are far below what any signal asks for. A token is *evidence* for a signal when its
score x is above a level l, and it weighs x - l, or a cap c if that is less. For each kind of signal
there is a need, such that the signal can only hold on a token if the weights of the tokens in its
span add up to the need. With low the least value for which the comparison is true:

    value, max                x >= low                                    one such token
    count, min_evidence       x > over; x >= low                          low; k of them
    sum                       Σ (x - l)⁺ >= Σ x - span·l                  >= low - span·l
    mean of n observed        Σ (x - l)⁺ >= n (mean - l)                  >= n (low - l)
    topk_mean                 likewise over the k largest                 >= k (low - l)
    rolling_mean_max          likewise over the n of one rolling span     >= n (low - l)
    noisy_or                  Σ p >= 1 - Π (1 - p), c = one - zero        >= c·low

Tokens are counted by a cap that everything above the level reaches: the step from it to the next
float32. Any other l will do; a quarter of what an even spread would need keeps small scores out,
and half of it the many middling ones that are not among the k largest.
Signals that can hold without any score above zero (`lt`, `gte: -1`) have no such bound: they are
possible everywhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from saeguard.rules.engine.thresholds import Test, float32_below
from saeguard.rules.model import Aggregate


@dataclass(frozen=True, slots=True)
class Bound:
    """What a test must have seen before it can hold."""

    level: float
    """Scores above it are evidence; a float32."""
    need: float
    """For each of `per` tokens, or of those that the run has if they are fewer."""
    per: int = 1
    cap: float = math.inf
    """The most that a token weighs."""
    is_exact: bool = False
    """The test holds exactly where it is possible."""


def bound_of(test: Test) -> Bound | None:
    """None if the test can hold without any score above zero."""
    aggregate, low = test.aggregate, test.low
    if test.wraps or low <= 0 or aggregate.kind == "ema":
        return None
    tokens, quarter = aggregate.tokens, float32_below(low / 4)
    match aggregate.kind:
        case "value" | "max":
            return _tokens_above(_strictly_below(low), 1, is_exact=test.high == np.inf)
        case "count":
            return _tokens_above(float32_below(aggregate.over), low)
        case "min_evidence":
            return _tokens_above(_strictly_below(low), aggregate.k)
        case "sum":
            level = float32_below(low / (4 * tokens))
            return Bound(level, low - tokens * level)
        case "mean":
            return Bound(quarter, low - quarter, per=tokens)
        case "topk_mean":
            half = float32_below(low / 2)
            return Bound(half, aggregate.k * (low - half))
        case "rolling_mean_max":
            return Bound(quarter, low - quarter, per=aggregate.rolling)
    return _noisy_or_bound(aggregate, low)


def _tokens_above(level: float, count: float, is_exact: bool = False) -> Bound:
    step = float(np.nextafter(np.float32(level), np.float32(np.inf))) - level
    return Bound(level, count * step, cap=step, is_exact=is_exact)


def _noisy_or_bound(aggregate: Aggregate, low: float) -> Bound | None:
    zero, rise = aggregate.zero, aggregate.one - aggregate.zero
    if rise <= 0 or zero < 0:
        return None
    level = float32_below(zero)
    return Bound(level, rise * low, cap=aggregate.one - level)


def span_of_evidence(aggregate: Aggregate) -> int:
    """Tokens among which the evidence must lie."""
    return aggregate.rolling if aggregate.kind == "rolling_mean_max" else aggregate.tokens


def _strictly_below(low: float) -> float:
    near = float32_below(low)
    return near if near < low else float(np.nextafter(np.float32(near), np.float32(-np.inf)))
