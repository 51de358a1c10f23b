"""What must have been seen before a signal can hold: the bounds that let the engine skip.

Most scores are far below what any signal asks for. A token is *evidence* for a signal when its
score x is above a level l, and it weighs w(x) >= 0: one, or x - l. For each kind of signal there is
a need, such that the signal can only hold on a token if the weights of the tokens in its span add
up to the need. With low the least value for which the comparison is true:

    value, max                x >= low                                    one such token
    count, min_evidence       x > over; x >= low                          low; k of them
    sum                       Σ (x - l)⁺ >= Σ x - span·l                  >= low - span·l
    mean of n observed        Σ (x - l)⁺ >= n (mean - l)                  >= n (low - l)
    topk_mean                 likewise over the k largest                 >= k (low - l)
    rolling_mean_max          likewise over the n of one rolling span     >= n (low - l)
    noisy_or                  a sum of q(x) = -log(1 - p), so as sum      >= q_low - span·q(l)

Any l will do; half of what an even spread would need keeps small scores out. Signals that can hold
without any score above zero (`lt`, `gte: -1`) have no such bound: they are possible everywhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from saeguard.rules.engine.aggregates import Numbers
from saeguard.rules.engine.thresholds import Test, float32_below
from saeguard.rules.model import Aggregate


@dataclass(frozen=True, slots=True)
class Bound:
    """What a test must have seen before it can hold."""

    level: float
    """Scores above it are evidence; a float32."""
    need: float
    """For each of `per` tokens, where `per` is not 0."""
    per: int = 0
    weighs: bool = True
    """Evidence weighs what it is above the level; False: one."""
    one: float = math.inf
    """For `noisy_or`: weights are q(x) - q(level), of the rise from `zero` to `one`."""
    zero: float = 0.0
    is_exact: bool = False
    """The test holds exactly where it is possible."""


def bound_of(test: Test) -> Bound | None:
    """None if the test can hold without any score above zero."""
    aggregate, low = test.aggregate, test.low
    if test.wraps or low <= 0 or aggregate.kind == "ema":
        return None
    tokens, half = aggregate.tokens, float32_below(low / 2)
    match aggregate.kind:
        case "value" | "max":
            return Bound(_strictly_below(low), 1, weighs=False, is_exact=test.high == np.inf)
        case "count":
            return Bound(float32_below(aggregate.over), low, weighs=False)
        case "min_evidence":
            return Bound(_strictly_below(low), aggregate.k, weighs=False)
        case "sum":
            level = float32_below(low / (2 * tokens))
            return Bound(level, low - tokens * level)
        case "mean":
            return Bound(half, low - half, per=tokens)
        case "topk_mean":
            return Bound(half, aggregate.k * (low - half))
        case "rolling_mean_max":
            return Bound(half, low - half, per=aggregate.rolling)
    return _noisy_or_bound(aggregate, low)


def _noisy_or_bound(aggregate: Aggregate, low: float) -> Bound | None:
    zero, one, tokens = aggregate.zero, aggregate.one, aggregate.tokens
    if one <= zero or zero < 0:
        return None
    q_low = -math.log1p(-low) if low < 1 else math.inf
    p_level = -math.expm1(-q_low / (2 * tokens)) if low < 1 else 0.0
    level = float32_below(zero + (one - zero) * p_level)
    return Bound(level, q_low - tokens * float(q_of(level, zero, one)), zero=zero, one=one)


def q_of(x: npt.ArrayLike, zero: npt.ArrayLike, one: npt.ArrayLike) -> Numbers:
    """-log(1 - p), of `noisy_or`'s p; infinite from `one` on."""
    p = np.minimum(np.maximum(np.subtract(x, zero) / np.subtract(one, zero), 0.0), 1.0)
    q: Numbers = -np.log1p(-p)
    return q


def span_of_evidence(aggregate: Aggregate) -> int:
    """Tokens among which the evidence must lie."""
    return aggregate.rolling if aggregate.kind == "rolling_mean_max" else aggregate.tokens


def _strictly_below(low: float) -> float:
    near = float32_below(low)
    return near if near < low else float(np.nextafter(np.float32(near), np.float32(-np.inf)))
