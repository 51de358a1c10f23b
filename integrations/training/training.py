"""From labelled activations to one probe, and to what is known of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from saeguard.integrations.discovery.splits import Folds, group_folds
from saeguard.integrations.training.candidates import Candidate, Kind, Probes
from saeguard.integrations.training.cross_fit import CrossFit, cross_fit
from saeguard.integrations.training.fitted import Fitted
from saeguard.integrations.training.material import Doubles, Material
from saeguard.integrations.training.metrics import threshold_at_rate
from saeguard.integrations.training.report import (
    Comparison,
    Part,
    Report,
    by_source,
    figures_of,
    gains,
)
from saeguard.integrations.training.rivals import Rival
from saeguard.monitor.errors import ConfigError

_FEWEST_FOLDS = 3
"""With a class in each: then a fit without two of them still has seen it."""


@dataclass(frozen=True, slots=True)
class Trained:
    """A probe, fitted to all requests, and what its like were worth on requests new to them."""

    fitted: Fitted
    candidate: Candidate
    report: Report


def split(material: Material, num_folds: int, seed: int) -> Folds:
    """The folds of all detectors.

    Raises:
        ConfigError: there are too few groups, or too few of one class.
    """
    labels = material.labels
    for side, name in ((True, "positive"), (False, "negative")):
        if not (labels == side).any():
            raise ConfigError(f"no request is {name}", "training needs both; see --positive")
    folds = group_folds(material.groups, num_folds, seed, labels.tolist())
    for side, name in ((True, "positives"), (False, "negatives")):
        num_with = len(np.unique(folds[labels == side]))
        if num_with < _FEWEST_FOLDS:
            num_groups = len(set(np.array(material.groups)[labels == side]))
            raise ConfigError(
                f"the {name} are of {num_groups} groups, and so in {num_with} of {num_folds} folds "
                f"only; nested cross-validation needs them in {_FEWEST_FOLDS} at least",
                "give requests that have nothing to do with each other a group of their own",
            )
    return folds


def train(
    material: Material,
    kind: Kind,
    name: str,
    folds: Folds,
    seed: int = 0,
    rival: Rival | None = None,
    progress: Callable[[], None] = lambda: None,
) -> Trained:
    """Choose, estimate, compare, and fit the probe.

    Args:
        progress: called after each of the fits that `num_fits` counts.
    """
    probes = Probes(material, kind, seed)
    found = cross_fit(probes.scores, material.labels, folds, progress)
    everything = range(len(probes.candidates))
    best = found.choose(everything)
    nested = found.nested(everything)
    labels = material.labels
    report = Report(
        kind=kind,
        name=name,
        chosen=str(probes.candidates[best]),
        chosen_in_folds=tuple(str(probes.candidates[i]) for i in nested.chosen),
        num_folds=len(nested.chosen),
        num_positives=int(labels.sum()),
        num_negatives=int((~labels).sum()),
        num_groups=len(set(material.groups)),
        num_tokens=int(material.tokens.taught.sum()),
        num_unobserved=material.num_unobserved,
        num_empty=material.num_empty,
        num_unjudged=material.num_unjudged,
        figures=figures_of(nested.scores, material),
        threshold=threshold_at_rate(found.outer[best], labels),
        layers=tuple(_layers(probes, found, material)),
        sources=by_source(nested.scores, material),
        comparison=None if rival is None else _compare(rival, nested.scores, material, folds),
    )
    return Trained(probes.fit(probes.candidates[best]), probes.candidates[best], report)


def _layers(probes: Probes, found: CrossFit, material: Material) -> list[Part]:
    parts = []
    for hook_point in material.activations:
        at = probes.at(hook_point)
        chosen = str(probes.candidates[found.choose(at)]).removeprefix(f"{hook_point}, ")
        parts.append(Part(str(hook_point), chosen, figures_of(found.nested(at).scores, material)))
    return parts


def _compare(rival: Rival, ours: Doubles, material: Material, folds: Folds) -> Comparison:
    found = cross_fit(rival.scores, material.labels, folds)
    everything = range(len(found.outer))
    theirs = found.nested(everything).scores
    auroc_gain, recall_gain = gains(ours, theirs, material)
    return Comparison(
        rival=rival.name,
        chosen=rival.describe(found.choose(everything)),
        figures=figures_of(theirs, material),
        auroc_gain=auroc_gain,
        recall_gain=recall_gain,
        caveat=rival.caveat,
    )
