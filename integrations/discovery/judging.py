"""What ways of detecting are worth on groups that had no part in making them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from saeguard.integrations.discovery.accuracy import (
    Accuracy,
    Measure,
    accuracy,
    gain,
    threshold_for,
)
from saeguard.integrations.discovery.corpus import Corpus
from saeguard.integrations.discovery.splits import Split
from saeguard.rules.calibration.intervals import Rate
from saeguard.rules.calibration.ranking import auroc
from saeguard.rules.calibration.resampling import rates_of

Scores = npt.NDArray[np.floating]
"""[requests]"""


@dataclass(frozen=True, slots=True)
class Judged:
    """A way of detecting, fitted to the training side of each split."""

    name: str
    train_auroc: float
    """The mean over splits."""
    held_out: Accuracy
    """Every request by what was fitted without its group."""
    gain: Measure | None = None
    """In AUROC over the first way, both of the same draws of groups."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """A way of detecting with its threshold."""

    threshold: float
    recall: Rate
    """On the held-out groups, as is the other."""
    false_alarms: Rate


def judge(
    ways: Mapping[str, Sequence[Scores]], corpus: Corpus, splits: Sequence[Split]
) -> tuple[Judged, ...]:
    """Each by what the test side of each split says, all against the first one.

    Args:
        ways: by name what each scores all requests, fitted to the training side of each split.
    """
    is_judged = np.any([split.test for split in splits], axis=0)
    labels = corpus.labels[is_judged]
    groups = [corpus.groups[i] for i in np.flatnonzero(is_judged)]
    held_out = {name: _held_out(scores, corpus, splits)[is_judged] for name, scores in ways.items()}
    first, *others = (
        Judged(
            name,
            float(np.mean([_auroc_of(each, corpus, split.train) for each, split in
                           zip(scores, splits, strict=True)])),
            accuracy(held_out[name], labels, groups),
        )
        for name, scores in ways.items()
    )  # fmt: skip
    of_first = held_out[first.name]
    return first, *(
        replace(each, gain=gain(held_out[each.name], of_first, labels, groups)) for each in others
    )


def judge_alone(scores: Scores, corpus: Corpus, split: Split) -> tuple[float, Accuracy]:
    """Of scores that one split fitted the AUROC on the training side, and what they are worth on
    the other.
    """
    groups = [corpus.groups[i] for i in np.flatnonzero(split.test)]
    return (
        _auroc_of(scores, corpus, split.train),
        accuracy(scores[split.test], corpus.labels[split.test], groups),
    )


def alarm(scores: Scores, corpus: Corpus, split: Split, max_false: float) -> Alarm:
    """The threshold that so many of the training side's negatives reach, judged on the other."""
    threshold = threshold_for(scores[split.train], corpus.labels[split.train], max_false)
    rates = []
    for side in (split.test & corpus.labels, split.test & ~corpus.labels):
        groups = [corpus.groups[i] for i in np.flatnonzero(side)]
        rates += rates_of(scores[side][None] >= threshold, groups)
    return Alarm(threshold, *rates)


def _held_out(scores: Sequence[Scores], corpus: Corpus, splits: Sequence[Split]) -> Scores:
    """Scores of different splits are made comparable by what their training sides are like."""
    found = np.zeros(len(corpus))
    for split, each in zip(splits, scores, strict=True):
        spread = float(each[split.train].std()) or 1.0
        found[split.test] = (each[split.test] - each[split.train].mean()) / spread
    return found


def _auroc_of(scores: Scores, corpus: Corpus, side: npt.NDArray[np.bool_]) -> float:
    return auroc(scores[side], corpus.labels[side])
