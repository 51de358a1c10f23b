"""How the scores of a feature are distributed over tokens: what calibration leaves behind, and what
`saeguard drift` compares live scores with.

Scores are counted in bins whose bounds grow by 2 %, the same for every feature. So counts of shards
add up to those of the whole, exactly, and a quantile is right to 1 %. What was not observed (NaN)
is not counted.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from saeguard.rules.phases import Phase
from saeguard.rules.recordings.offline import RecordedRequest

QUANTILES = (0.01, 0.1, 0.5, 0.9, 0.99, 0.999)

_LOG_GROWTH = np.log(1.02)
_SMALLEST = 1e-6  # what is nearer to 0 counts as 0

Scores = npt.NDArray[np.float32]


def bin_numbers(scores: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """The bin of each score: 0 of 0, rising with the score, and negative where it is."""
    sizes = np.abs(scores.astype(np.float64))
    steps = np.log(np.maximum(sizes, _SMALLEST) / _SMALLEST) / _LOG_GROWTH
    numbers = np.where(sizes < _SMALLEST, 0.0, np.sign(scores) * (np.floor(steps) + 1))
    return numbers.astype(np.int64)


def bin_value(number: int) -> float:
    """The middle of a bin; no score in it is further from that than 1 %."""
    if number == 0:
        return 0.0
    return float(np.sign(number) * _SMALLEST * np.exp((abs(number) - 0.5) * _LOG_GROWTH))


@dataclass(frozen=True, slots=True)
class FeatureStatistics:
    """The scores of one feature in one phase."""

    counts: Mapping[int, int] = field(repr=False)
    """Tokens in each bin, bins rising; only those in which there are any."""
    num_groups: int
    """How many independent things the tokens are of: tokens of a request are alike."""

    @classmethod
    def of(cls, scores: Scores, num_groups: int = 1) -> tuple[FeatureStatistics, ...]:
        """Of each feature.

        Args:
            scores: [tokens, features], NaN where not observed; finite otherwise.
            num_groups: requests or groups of requests that the tokens are of.
        """
        return tuple(
            cls.of_bins(bin_numbers(column[~np.isnan(column)]), num_groups) for column in scores.T
        )

    @classmethod
    def of_bins(cls, bins: npt.NDArray[np.int64], num_groups: int) -> FeatureStatistics:
        """Of one feature, by the bin of each of its scores."""
        numbers, counts = np.unique(bins, return_counts=True)
        found = dict(zip(numbers.tolist(), counts.tolist(), strict=True))
        return cls(found, num_groups if found else 0)

    @classmethod
    def merged(cls, parts: Iterable[FeatureStatistics]) -> FeatureStatistics:
        """Of all the tokens together. No group may be in two parts."""
        counts, num_groups = Counter[int](), 0
        for part in parts:
            counts.update(part.counts)
            num_groups += part.num_groups
        return cls(dict(sorted(counts.items())), num_groups)

    @property
    def num_tokens(self) -> int:
        return sum(self.counts.values())

    @property
    def density(self) -> float | None:
        """Share of the tokens with a score above 0; None of no tokens."""
        return self.share_from(1)

    @property
    def quantiles(self) -> dict[float, float]:
        """Share -> the score that this share of the tokens does not exceed; none of no tokens."""
        bins, reached = list(self.counts), np.cumsum(list(self.counts.values()))
        if not bins:
            return {}
        ranks = np.searchsorted(reached, np.ceil(np.array(QUANTILES) * reached[-1]))
        return {q: bin_value(bins[i]) for q, i in zip(QUANTILES, ranks, strict=True)}

    def share_above(self, threshold: float) -> float | None:
        """Share of the tokens whose score is at least the threshold, which is taken for the lower
        bound of its bin, at most 2 % below; None of no tokens.
        """
        return self.share_from(int(bin_numbers(np.array(threshold))))

    def share_from(self, number: int) -> float | None:
        """Share of the tokens in this bin and all above."""
        above = sum(count for bin_, count in self.counts.items() if bin_ >= number)
        return above / self.num_tokens if self.counts else None

    def as_json(self) -> dict[str, Any]:
        """As plain values; what can be told from the counts is there for people to read."""
        return {
            "num_tokens": self.num_tokens,
            "num_groups": self.num_groups,
            "density": self.density,
            "quantiles": {str(share): score for share, score in self.quantiles.items()},
            "counts": {str(number): count for number, count in self.counts.items()},
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> FeatureStatistics:
        """
        Raises:
            ValueError: these are not what `as_json` gives.
        """
        try:
            counts = {int(number): int(count) for number, count in values["counts"].items()}
            num_groups = int(values["num_groups"])
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not statistics of a feature: {error!r}") from error
        if any(count < 1 for count in counts.values()) or not 0 <= num_groups <= sum(
            counts.values()
        ):
            raise ValueError("not statistics of a feature: its counts cannot be")
        return cls(dict(sorted(counts.items())), num_groups)


Statistics = dict[str, dict[Phase, FeatureStatistics]]
"""Of each feature in each phase in which it was observed."""


def statistics_of(
    requests: Sequence[RecordedRequest], groups: Sequence[str] | None = None
) -> Statistics:
    """Of recorded requests.

    Args:
        groups: what each request belongs to; without it each is one by itself.
    """
    names = [str(i) for i in range(len(requests))] if groups is None else groups
    pairs = sorted(zip(names, requests, strict=True), key=lambda pair: pair[0])
    parts: dict[tuple[str, Phase], list[FeatureStatistics]] = {}
    for _, members in itertools.groupby(pairs, key=lambda pair: pair[0]):
        for key, part in _of_group([request for _, request in members]).items():
            parts.setdefault(key, []).append(part)
    found: Statistics = {}
    for feature, phase in sorted(parts):
        found.setdefault(feature, {})[phase] = FeatureStatistics.merged(parts[feature, phase])
    return found


def _of_group(requests: Sequence[RecordedRequest]) -> dict[tuple[str, Phase], FeatureStatistics]:
    """Of requests that count as one."""
    scores: dict[tuple[str, Phase], list[Scores]] = {}
    for request in requests:
        for phase in np.unique(request.phases):
            rows = request.scores[request.phases == phase]
            for column, name in enumerate(request.columns):
                scores.setdefault((name, Phase(phase)), []).append(rows[:, column])
    found = {}
    for key, columns in scores.items():
        (statistics,) = FeatureStatistics.of(np.concatenate(columns)[:, None])
        if statistics.counts:
            found[key] = statistics
    return found


def as_json(statistics: Statistics) -> dict[str, Any]:
    """As plain values, under `statistics` in a calibration record."""
    return {
        feature: {str(phase): each.as_json() for phase, each in phases.items()}
        for feature, phases in statistics.items()
    }


def from_json(values: Mapping[str, Any]) -> Statistics:
    """
    Raises:
        ValueError: these are not what `as_json` gives.
    """
    try:
        return {
            feature: {
                Phase.parse(phase): FeatureStatistics.from_json(each)
                for phase, each in phases.items()
            }
            for feature, phases in values.items()
        }
    except (TypeError, AttributeError) as error:
        raise ValueError(f"not statistics of features: {error!r}") from error
