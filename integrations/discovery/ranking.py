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
    contrast: float
    """In standard deviations of what chance makes of it."""
    q: float
    """The false-discovery rate at which it is called different."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """Of one split, from its training side alone; [features, `AGGS`]."""

    contrasts: Doubles
    q: Doubles

    def best(self, num: int, max_q: float = 1.0) -> list[Candidate]:
        """Those with the highest contrast, each feature in its better way of being read."""
        contrasts = np.where(np.isnan(self.contrasts), -np.inf, self.contrasts)
        agg = contrasts.argmax(axis=1)
        every = np.arange(len(agg))
        best, q = contrasts[every, agg], self.q[every, agg]
        order = np.argsort(-best, kind="stable")[:num]
        return [
            Candidate(int(i), AGGS[agg[i]], float(best[i]), float(q[i]))
            for i in order
            if q[i] <= max_q and best[i] > 0
        ]


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
    found = [np.full((num_features, len(AGGS)), np.nan) for _ in splits]
    chances = [Chance() for _ in splits]
    blocks = sae.ranges(max(1, _POOLED_NUMBERS // len(corpus)))
    with closing(runner(partial(_ranking, corpus, sae, splits, contrasts), blocks)) as ranked:
        for features, of_splits in zip(blocks, ranked, strict=True):
            for i, (values, chance) in enumerate(of_splits):
                found[i][features] = values
                chances[i].join(chance)
            progress(len(features))
    return [
        Ranking(f, q_values(chance.p_values(f.ravel())).reshape(f.shape))
        for f, chance in zip(found, chances, strict=True)
    ]


_Ranked = list[tuple[Doubles, Chance]]
"""Of each split: contrasts of some features, [features, `AGGS`], and what chance makes of them."""


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
        ours, null = contrast(of_agg)
        found.append(ours)
        chance.add(null)
    return np.stack(found, axis=1), chance
