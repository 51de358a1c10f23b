"""From labelled activations to a few features, and what they are worth on groups not seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from saeguard.integrations.discovery.accuracy import Accuracy, accuracy, threshold_for
from saeguard.integrations.discovery.corpus import Corpus
from saeguard.integrations.discovery.directions import mean_directions
from saeguard.integrations.discovery.feature_sets import CandidateScores, FeatureSet, grow
from saeguard.integrations.discovery.ranking import (
    Candidate,
    rank,
    strata_of,
    training_contrast,
)
from saeguard.integrations.discovery.sae_features import Block, Sae
from saeguard.integrations.discovery.splits import Split, linked, make_splits
from saeguard.monitor.errors import ConfigError
from saeguard.monitor.shards import Runner, run_here
from saeguard.rules.calibration.intervals import Rate
from saeguard.rules.calibration.ranking import auroc
from saeguard.rules.calibration.resampling import rates_of

Scores = npt.NDArray[np.floating]

_NUM_CANDIDATES = 32
"""Of a split: among these a set is grown."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What is looked for, and how."""

    max_features: int = 4
    max_q: float = 0.05
    """False-discovery rate of what counts as found."""
    max_false: float = 0.01
    """Of the training side's negatives, at the threshold."""
    train: str = "fit"
    """The split to choose on, where labels name one."""
    num_folds: int = 5
    """Where they name none."""
    hold_out_sources: bool = False
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Judged:
    """A way of detecting, fitted to the training side of each split."""

    name: str
    train_auroc: float
    """The mean over splits."""
    held_out: Accuracy
    """Every request by what was fitted without its group."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """A feature of the set."""

    candidate: Candidate
    train_auroc: float
    held_out: Accuracy
    num_splits: int
    """In how many splits it was chosen."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """The set with its threshold."""

    threshold: float
    recall: Rate
    """On the held-out groups, as is the other."""
    false_alarms: Rate


@dataclass(frozen=True, slots=True)
class Discovery:
    """What was found."""

    block: Block
    """Of the chosen features."""
    splits: tuple[Split, ...]
    """The first is the one that the set and its threshold are of."""
    is_source_controlled: bool
    num_found: int
    """Features whose false-discovery rate is within the bound."""
    ranked: tuple[Candidate, ...]
    features: FeatureSet
    chosen: tuple[Chosen, ...]
    alarm: Alarm
    judged: tuple[Judged, ...]


class NothingFound(ConfigError):
    """No feature tells positives from negatives better than chance does."""


def discover(
    corpus: Corpus,
    sae: Sae,
    settings: Settings,
    progress: Callable[[int], None] = lambda num_features: None,
    runner: Runner = run_here,
) -> Discovery:
    """
    Args:
        runner: where blocks of features are ranked, which is most of the work.

    Raises:
        NothingFound: on the training side of the first split no feature is beyond chance.
        SaeguardError: the SAE, the labels or a recording cannot be used.
    """
    _check_fit(corpus, sae)
    strata = strata_of(corpus)
    splits = _splits(corpus, settings)
    contrasts = [training_contrast(corpus, strata, split, settings.seed) for split in splits]
    rankings = rank(corpus, sae, splits, contrasts, progress, runner)
    candidates = [ranking.best(_NUM_CANDIDATES, settings.max_q) for ranking in rankings]
    if not candidates[0]:
        best = next(iter(rankings[0].best(1)), None)
        nearest = f"the best is feature {best.feature} at {best.q:.2f}" if best else "none differs"
        raise NothingFound(
            f"no feature tells positives from negatives at a false-discovery rate of "
            f"{settings.max_q:g}: {nearest}",
            "label more groups, or capture another hook point and use its SAE",
        )
    wanted = sorted({c.feature for each in candidates for c in each})
    scores = CandidateScores(corpus, sae.block(wanted))
    sets = [
        grow(
            scores,
            [c.feature for c in each],
            contrast,
            corpus,
            split.train,
            settings.max_features,
        )
        if each
        else None
        for each, contrast, split in zip(candidates, contrasts, splits, strict=True)
    ]
    chosen = sets[0]
    assert chosen is not None
    set_scores = [_score_of(scores, each, corpus) for each in sets]
    single_scores = [
        scores.of([each[0].feature], each[0].agg) if each else np.zeros(len(corpus), np.float32)
        for each in candidates
    ]
    judged = [
        _judge("best feature", corpus, splits, single_scores),
        _judge(f"sum of up to {settings.max_features}", corpus, splits, set_scores),
    ]
    for hook_point in corpus.hook_points:
        directions = mean_directions(corpus, hook_point, splits, contrasts)
        found = [direction.scores for direction in directions]
        judged.append(_judge(f"mean difference, {hook_point}", corpus, splits, found))
    by_feature = {c.feature: c for c in candidates[0]}
    return Discovery(
        block=sae.block(chosen.features),
        splits=tuple(splits),
        is_source_controlled=any(strata),
        num_found=int((rankings[0].q.min(axis=1) <= settings.max_q).sum()),
        ranked=tuple(candidates[0]),
        features=chosen,
        chosen=tuple(
            _chosen(by_feature[feature], corpus, splits[0], scores, sets)
            for feature in chosen.features
        ),
        alarm=_alarm(set_scores[0], corpus, splits[0], settings.max_false),
        judged=tuple(judged),
    )


def _splits(corpus: Corpus, settings: Settings) -> list[Split]:
    groups: Sequence[str] = corpus.groups
    if settings.hold_out_sources:
        groups = linked(corpus.groups, corpus.sources)
    return make_splits(
        groups, corpus.labels, corpus.splits, settings.train, settings.num_folds, settings.seed
    )


def _check_fit(corpus: Corpus, sae: Sae) -> None:
    block = sae.block([0])
    if block.hook_point not in corpus.hook_points:
        raise ConfigError(
            f"{sae.path}: reads {block.hook_point}, and the recordings have activations of "
            f"{', '.join(map(str, corpus.hook_points))}",
            f"capture with --activations {block.hook_point}",
        )
    _, _, x = next(corpus.tokens(block.hook_point))
    if x.shape[1] != block.weight.shape[1]:
        raise ConfigError(
            f"{sae.path}: reads {block.weight.shape[1]} numbers, and the recordings have "
            f"{x.shape[1]} at {block.hook_point}",
            "use an SAE of this model",
        )


def _score_of(scores: CandidateScores, found: FeatureSet | None, corpus: Corpus) -> Scores:
    if found is None or not found.features:
        return np.zeros(len(corpus), np.float32)
    return scores.of(found.features, found.agg)


def _judge(name: str, corpus: Corpus, splits: Sequence[Split], scores: Sequence[Scores]) -> Judged:
    """By what each split's test side says; scores of different splits are made comparable by what
    their training sides are like.
    """
    held_out = np.zeros(len(corpus))
    is_judged = np.zeros(len(corpus), bool)
    for split, each in zip(splits, scores, strict=True):
        spread = float(each[split.train].std()) or 1.0
        held_out[split.test] = (each[split.test] - each[split.train].mean()) / spread
        is_judged |= split.test
    groups = [group for group, judged in zip(corpus.groups, is_judged, strict=True) if judged]
    return Judged(
        name,
        float(
            np.mean(
                [
                    auroc(each[split.train], corpus.labels[split.train])
                    for split, each in zip(splits, scores, strict=True)
                ]
            )
        ),
        accuracy(held_out[is_judged], corpus.labels[is_judged], groups),
    )


def _chosen(
    candidate: Candidate,
    corpus: Corpus,
    split: Split,
    scores: CandidateScores,
    sets: Sequence[FeatureSet | None],
) -> Chosen:
    values = scores.of([candidate.feature], candidate.agg)
    groups = [corpus.groups[i] for i in np.flatnonzero(split.test)]
    return Chosen(
        candidate,
        auroc(values[split.train], corpus.labels[split.train]),
        accuracy(values[split.test], corpus.labels[split.test], groups),
        sum(candidate.feature in each.features for each in sets if each is not None),
    )


def _alarm(scores: Scores, corpus: Corpus, split: Split, max_false: float) -> Alarm:
    threshold = threshold_for(scores[split.train], corpus.labels[split.train], max_false)
    rates = []
    for side in (split.test & corpus.labels, split.test & ~corpus.labels):
        groups = [corpus.groups[i] for i in np.flatnonzero(side)]
        rates += rates_of(scores[side][None] >= threshold, groups)
    return Alarm(threshold, *rates)
