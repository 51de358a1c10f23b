"""All features of an SAE, by how well each alone tells positives from negatives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from saeguard.integrations.discovery.contrast import (
    Chance,
    Contrast,
    covariates,
    shuffled_labels,
)
from saeguard.integrations.discovery.corpus import Corpus
from saeguard.integrations.discovery.pooling import AGGS, Agg, Floats, pooled
from saeguard.integrations.discovery.sae_features import Sae
from saeguard.integrations.discovery.splits import Split
from saeguard.monitor.shards import Runner, run_here
from saeguard.rules.drift.discoveries import q_values

Doubles = npt.NDArray[np.float64]

_NUM_SHUFFLES = 200
_POOLED_NUMBERS = 2**24
"""Of requests times features at once: 128 MiB of ranks."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A feature, as a signal of a rule would read it."""

    feature: int
    agg: Agg
    auroc: float
    """Of the training side, cleared of length, position and source."""
    contrast: float
    """How sure that is, in standard deviations of what chance makes of it."""
    q: float
    """The false-discovery rate at which it is called different."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """Of one split, from its training side alone; [features, `AGGS`]."""

    contrasts: Doubles
    aurocs: Doubles
    q: Doubles

    def best(self, num: int, max_q: float = 1.0) -> list[Candidate]:
        """Those beyond chance with the highest AUROC, each feature in its better way of being read;
        where none is, none.
        """
        is_found = (self.q <= max_q) & (self.contrasts > 0)
        aurocs = np.where(is_found, self.aurocs, -np.inf)
        agg = aurocs.argmax(axis=1)
        highest = aurocs.max(axis=1)
        order = np.argsort(-highest, kind="stable")[:num]
        return [self._candidate(int(i), int(agg[i])) for i in order if highest[i] > -np.inf]

    def of(self, feature: int) -> Candidate:
        """In the way of being read in which it tells more, be it of positives or of negatives."""
        return self._candidate(feature, int(np.abs(self.aurocs[feature] - 0.5).argmax()))

    def surest(self) -> Candidate:
        """The feature that chance explains least."""
        return self.of(int(self.q.min(axis=1).argmin()))

    def opposed(self, num: int) -> list[int]:
        """The features that are most surely higher where the label is no."""
        contrasts = np.where(np.isnan(self.contrasts), np.inf, self.contrasts).min(axis=1)
        return [int(i) for i in np.argsort(contrasts, kind="stable")[:num] if contrasts[i] < 0]

    def _candidate(self, feature: int, agg: int) -> Candidate:
        numbers = (each[feature, agg] for each in (self.aurocs, self.contrasts, self.q))
        return Candidate(feature, AGGS[agg], *map(float, numbers))


def training_contrast(corpus: Corpus, strata: Sequence[str], split: Split, seed: int) -> Contrast:
    """What is known of the training side of a split."""
    places = np.flatnonzero(split.train)
    groups, kinds = [corpus.groups[i] for i in places], [strata[i] for i in places]
    labels = corpus.labels[places]
    known = covariates(corpus.num_tokens[places], corpus.first_positions[places], kinds)
    return Contrast(labels, known, shuffled_labels(labels, groups, kinds, _NUM_SHUFFLES, seed))


def strata_of(corpus: Corpus) -> tuple[str, ...]:
    """The sources, where most positives are of a source that has negatives, too; else one for all:
    then the source tells the label, and nothing can be said beyond it.
    """
    kinds: dict[str, set[bool]] = {}
    for source, label in zip(corpus.sources, corpus.labels, strict=True):
        kinds.setdefault(source, set()).add(bool(label))
    is_mixed = np.array([len(kinds[source]) == 2 for source in corpus.sources])
    are_useful = is_mixed[corpus.labels].mean() > 0.5
    return corpus.sources if are_useful else ("",) * len(corpus)


def rank(
    corpus: Corpus,
    sae: Sae,
    splits: Sequence[Split],
    contrasts: Sequence[Contrast],
    progress: Callable[[int], None] = lambda num_features: None,
    runner: Runner = run_here,
) -> list[Ranking]:
    """Rank all features, for each split.

    Args:
        contrasts: of the splits' training sides.
        progress: called with how many more features are done.
        runner: where blocks of features are ranked.

    Raises:
        SaeguardError: the SAE or a recording cannot be read.
    """
    num_features, _ = sae.shape()
    found = [np.full((num_features, len(AGGS), 2), np.nan) for _ in splits]
    chances = [Chance() for _ in splits]
    blocks = sae.ranges(max(1, _POOLED_NUMBERS // len(corpus)))
    with closing(runner(partial(_ranking, corpus, sae, splits, contrasts), blocks)) as ranked:
        for features, of_splits in zip(blocks, ranked, strict=True):
            for i, (values, chance) in enumerate(of_splits):
                found[i][features] = values
                chances[i].join(chance)
            progress(len(features))
    return [
        Ranking(
            f[..., 0],
            f[..., 1],
            q_values(chance.p_values(f[..., 0].ravel())).reshape(f.shape[:2]),
        )
        for f, chance in zip(found, chances, strict=True)
    ]


_Ranked = list[tuple[Doubles, Chance]]
"""Of each split: contrasts and AUROCs of some features, [features, `AGGS`, 2], and what chance
makes of the contrasts."""


@contextmanager
def _ranking(
    corpus: Corpus, sae: Sae, splits: Sequence[Split], contrasts: Sequence[Contrast]
) -> Iterator[Callable[[range], _Ranked]]:
    def rank_block(features: range) -> _Ranked:
        block = sae.block(features)
        values = pooled(corpus, block.hook_point, block, len(features), block.tokens_at_once)
        return [
            _contrasts(contrast, [values[agg][split.train] for agg in AGGS])
            for split, contrast in zip(splits, contrasts, strict=True)
        ]

    yield rank_block


def _contrasts(contrast: Contrast, values: Sequence[Floats]) -> tuple[Doubles, Chance]:
    chance = Chance()
    found = []
    for of_agg in values:
        difference = contrast(of_agg)
        found.append(np.stack([difference.contrasts, difference.aurocs], axis=1))
        chance.add(difference.null)
    return np.stack(found, axis=1), chance
