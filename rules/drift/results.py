"""What a comparison of two sides says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from saeguard.rules.calibration.statistics import FeatureStatistics
from saeguard.rules.phases import Phase

Verdict = Literal["moved", "small", "none", "too_little", "silent"]


@dataclass(frozen=True, slots=True)
class Criteria:
    """What counts as drift."""

    false_discovery_rate: float = 0.05
    material: float = 0.1
    """`moved` from which a feature counts as moved, where that is no chance."""
    detect: float = 0.5
    """`moved` that the data must be able to show for "none" to be said."""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Share:
    """Of the tokens, with its 95 % interval; without one where only statistics are known."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Side:
    """What one side is like."""

    statistics: FeatureStatistics
    """Of all its tokens."""
    density: Share
    above: Mapping[float, Share]
    """Threshold -> share of tokens at it or above."""


@dataclass(frozen=True, slots=True)
class Drift:
    """One feature in one phase."""

    feature: str
    phase: Phase
    reference: Side
    recent: Side
    distance: float
    """Kolmogorov's and Smirnov's: the largest difference of shares above a score."""
    moved: float
    """The distance as a part of all activity: of the tokens with a score that is not 0."""
    stability_index: float
    p_value: float
    detectable: float
    """`moved` from which it would have been found four times in five."""
    num_needed: int
    """Groups on each side that would show what `Criteria.detect` asks for."""
    q_value: float = 1.0
    verdict: Verdict = "none"


@dataclass(frozen=True, slots=True)
class Compared:
    """All of it."""

    drifts: tuple[Drift, ...]
    unobserved: tuple[tuple[str, Phase], ...]
    """Features that one side has scores of in this phase, and the other has not."""
    left_out: Mapping[str, int]
    """Stratum -> requests that nothing was compared with."""
    num_reference: int
    num_recent: int
    num_pairs: int
    """Groups on both sides."""
