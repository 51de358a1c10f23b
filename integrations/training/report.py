"""What is said of a trained probe: every figure from requests of groups that neither the fit nor
the choice of the candidate has seen.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import numpy as np

from saeguard.integrations.training.material import Doubles, Material
from saeguard.integrations.training.metrics import (
    FALSE_POSITIVE_RATE,
    Estimate,
    Figure,
    difference,
    estimate,
    threshold_at_rate,
)
from saeguard.rules.calibration.ranking import Ranking


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one detector."""

    auroc: Estimate
    recall: Estimate
    """At 1 % false positives."""


@dataclass(frozen=True, slots=True)
class Part:
    """A hook point, or another part of the candidates, as if there were no others."""

    name: str
    chosen: str
    """Of it, by all requests."""
    figures: Figures


@dataclass(frozen=True, slots=True)
class Source:
    """Requests of one source, and how many of them pass the threshold of 1 % false positives."""

    name: str
    num_positives: int
    num_found: int
    num_negatives: int
    num_false_alarms: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """With a rival on the same requests; intervals are of the paired difference."""

    rival: str
    chosen: str
    figures: Figures
    auroc_gain: Estimate
    """Of the probe over the rival."""
    recall_gain: Estimate
    caveat: str

    @property
    def better(self) -> str:
        """`probe`, `rival`, or nothing where the interval of the difference in AUROC holds 0."""
        if self.auroc_gain.low > 0:
            return "probe"
        return "rival" if self.auroc_gain.high < 0 else ""


@dataclass(frozen=True, slots=True)
class Report:
    """All of it."""

    kind: str
    name: str
    chosen: str
    chosen_in_folds: tuple[str, ...]
    """By the inner loop of each outer fold; where they differ, the choice is not a sure one."""
    num_folds: int
    num_positives: int
    num_negatives: int
    num_groups: int
    num_tokens: int
    num_unobserved: int
    """Tokens left out."""
    num_empty: int
    """Requests left out, of which no answer was recorded."""
    num_unjudged: int
    """Requests left out, of which no label says what they are."""
    figures: Figures
    threshold: float
    """That 1 % of the negatives' out-of-fold scores are above."""
    layers: tuple[Part, ...]
    sources: tuple[Source, ...]
    comparison: Comparison | None = field(default=None)


def figures_of(scores: Doubles, material: Material) -> Figures:
    ranking = Ranking.of(scores, material.labels)
    labels, groups = material.labels, material.groups
    return Figures(
        estimate(ranking.auroc, labels, groups),
        estimate(_recall_of(ranking), labels, groups),
    )


def gains(ours: Doubles, theirs: Doubles, material: Material) -> tuple[Estimate, Estimate]:
    """Differences in AUROC and recall; each draw of groups is one of both detectors."""
    one, other = (Ranking.of(scores, material.labels) for scores in (ours, theirs))
    found, found_by_other = _recall_of(one), _recall_of(other)
    return (
        difference(lambda weight: one.auroc(weight) - other.auroc(weight), material.groups),
        difference(lambda weight: found(weight) - found_by_other(weight), material.groups),
    )


def _recall_of(ranking: Ranking) -> Figure:
    return partial(ranking.recall, max_false=FALSE_POSITIVE_RATE)


def by_source(scores: Doubles, material: Material) -> tuple[Source, ...]:
    """Each source by the one threshold of all."""
    passes = scores > threshold_at_rate(scores, material.labels)
    sources, labels = np.array(material.sources), material.labels
    return tuple(
        Source(
            name=str(name),
            num_positives=int((labels & (sources == name)).sum()),
            num_found=int((passes & labels & (sources == name)).sum()),
            num_negatives=int((~labels & (sources == name)).sum()),
            num_false_alarms=int((passes & ~labels & (sources == name)).sum()),
        )
        for name in np.unique(sources)
    )


def verdict(report: Report) -> str:
    """One sentence: which is better here, and by how much."""
    found = report.comparison
    if found is None:
        raise ValueError("there is no rival")
    probe, rival = f"the {report.kind} probe", found.rival
    ours, theirs, gain = report.figures.auroc.value, found.figures.auroc.value, found.auroc_gain
    if found.better == "probe":
        return f"Better here: {probe}, {_ahead(ours, theirs, rival, (gain.low, gain.high))}"
    if found.better == "rival":
        return f"Better here: {rival}, {_ahead(theirs, ours, probe, (-gain.high, -gain.low))}"
    return (
        f"Neither {probe} nor {rival} is surely better here: AUROC {ours:.3f} and {theirs:.3f}, "
        f"the difference is {gain.value:+.3f} ({gain.low:+.3f} to {gain.high:+.3f})."
    )


def _ahead(more: float, less: float, loser: str, interval: tuple[float, float]) -> str:
    low, high = interval
    return (
        f"with an AUROC of {more:.3f} against {less:.3f} of {loser}: "
        f"by {more - less:.3f} ({low:.3f} to {high:.3f})."
    )
