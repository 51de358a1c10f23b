"""How far a rate that was counted can be from the true one."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, exp, lgamma, log, log1p, sqrt
from statistics import NormalDist

_ROUNDS = 60  # halvings: far below what a float can tell


@dataclass(frozen=True, slots=True)
class Rate:
    """A share of a number, with its interval."""

    count: int
    total: int
    low: float
    high: float

    @property
    def share(self) -> float | None:
        """None of nothing."""
        return self.count / self.total if self.total else None


def wilson(count: int, total: int, confidence: float = 0.95) -> Rate:
    """Wilson's score interval of `count` of `total` independent ones.

    Source: E. B. Wilson, Probable inference, the law of succession, and statistical inference,
    JASA 22 (1927). Of nothing it is 0 to 1.
    """
    if total == 0:
        return Rate(0, 0, 0.0, 1.0)
    return Rate(count, total, *wilson_bounds(count / total, total, confidence))


def wilson_bounds(share: float, total: float, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a share of so many, which need not be a whole number."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    centre = share + z * z / (2 * total)
    reach = z * sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    # At the ends it is exact, but not in floating point.
    low = 0.0 if share == 0 else (centre - reach) / scale
    high = 1.0 if share == 1 else (centre + reach) / scale
    return low, high


def upper_bound(count: int, total: int, confidence: float) -> float:
    """The rate that is exceeded with probability 1 - confidence at most, whatever the true one.

    One-sided, exact. Source: C. J. Clopper, E. S. Pearson, The use of confidence or fiducial
    limits illustrated in the case of the binomial, Biometrika 26 (1934).
    """
    if count >= total:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(_ROUNDS):
        middle = (low + high) / 2
        if _at_most(count, total, middle) > 1 - confidence:
            low = middle
        else:
            high = middle
    return high


def poisson_upper_bound(count: int, confidence: float) -> float:
    """Of the expected number, where so many were counted of something rare.

    One-sided, exact (F. Garwood, Biometrika 28, 1936).
    """
    low, high = 0.0, 10.0 + 4.0 * count
    for _ in range(_ROUNDS):
        middle = (low + high) / 2
        tail = sum(exp(i * log(middle) - middle - lgamma(i + 1)) for i in range(count + 1))
        low, high = (middle, high) if tail > 1 - confidence else (low, middle)
    return high


def num_needed(rate: float, confidence: float) -> int:
    """How many without a single event say that it is no more frequent than this."""
    return ceil(log1p(-confidence) / log1p(-rate))


def _at_most(count: int, total: int, rate: float) -> float:
    """P(X <= count) of a binomial."""
    log_rate, log_rest = log(rate), log1p(-rate)
    return sum(
        exp(
            lgamma(total + 1)
            - lgamma(i + 1)
            - lgamma(total - i + 1)
            + i * log_rate
            + (total - i) * log_rest
        )
        for i in range(count + 1)
    )
