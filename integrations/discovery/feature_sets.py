"""Feature sets: the sum of a few features, grown one by one on the training side of a split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from saeguard.integrations.discovery.contrast import Contrast
from saeguard.integrations.discovery.corpus import Corpus, Which
from saeguard.integrations.discovery.pooling import AGGS, Agg, Floats, TokenScores, token_scores
from saeguard.integrations.discovery.sae_features import Block
from saeguard.rules.calibration.ranking import auroc

_LEAST_GAIN = 0.02
"""Of the contrast. What adds less is not worth a line of a rule; and of the pairs of a positive and
a negative that were in the wrong order it must put right:
"""
_LEAST_MENDED = 0.1


@dataclass(frozen=True, slots=True)
class FeatureSet:
    """`features: [...], combine: sum`, as a signal of a rule reads it."""

    features: tuple[int, ...]
    agg: Agg
    contrast: float


class CandidateScores:
    """What some features say of every token."""

    def __init__(self, corpus: Corpus, block: Block) -> None:
        """
        Raises:
            ConfigError: a recording cannot be read.
        """
        parts = list(token_scores(corpus, block.hook_point, block, block.tokens_at_once))
        numbers = [i for part, _ in parts for i in part]
        lengths = [np.diff([*scores.starts, len(scores.scores)]) for _, scores in parts]
        starts = np.cumsum([0, *np.concatenate(lengths)[:-1]], dtype=np.intp)
        self._tokens = TokenScores(np.concatenate([scores.scores for _, scores in parts]), starts)
        self._numbers = numbers
        self._num_requests = len(corpus)
        self._columns = {feature: column for column, feature in enumerate(block.indices)}

    def of(self, features: Sequence[int], agg: Agg) -> Floats:
        """What the sum of the features reaches in each request, [requests]."""
        columns = [self._columns[feature] for feature in features]
        total = self._tokens.scores[:, columns].sum(axis=1, keepdims=True)
        return self._pooled(total, agg)[:, 0]

    def with_each(self, chosen: Sequence[int], more: Sequence[int], agg: Agg) -> Floats:
        """The same of the chosen features with each of some others, [requests, others]."""
        columns = [self._columns[feature] for feature in chosen]
        others = self._tokens.scores[:, [self._columns[feature] for feature in more]]
        total = self._tokens.scores[:, columns].sum(axis=1, keepdims=True)
        return self._pooled(others + total, agg)

    def _pooled(self, scores: Floats, agg: Agg) -> Floats:
        out = np.zeros((self._num_requests, scores.shape[1]), np.float32)
        out[self._numbers] = TokenScores(scores, self._tokens.starts).pooled(agg)
        return out


def grow(
    scores: CandidateScores,
    candidates: Sequence[int],
    contrast: Contrast,
    corpus: Corpus,
    train: Which,
    max_features: int,
) -> FeatureSet:
    """Add the feature that raises the contrast most, as long as one does.

    Args:
        candidates: at least one.
        contrast: of the training side, [requests] where `train` holds.
    """
    labels = corpus.labels[train]
    best = FeatureSet((), "max", -np.inf)
    for agg in AGGS:
        chosen, wrong = FeatureSet((), agg, 0.0), 1.0
        while len(chosen.features) < min(max_features, len(candidates)):
            left = [feature for feature in candidates if feature not in chosen.features]
            values = scores.with_each(chosen.features, left, agg)[train]
            found = np.nan_to_num(contrast(values)[0], nan=-np.inf)
            taken = int(found.argmax())
            still_wrong = 1 - auroc(values[:, taken], labels)
            is_better = found[taken] > chosen.contrast * (1 + _LEAST_GAIN)
            if not is_better or still_wrong > wrong * (1 - _LEAST_MENDED):
                break
            chosen = FeatureSet((*chosen.features, left[taken]), agg, float(found[taken]))
            wrong = still_wrong
        if chosen.contrast > best.contrast:
            best = chosen
    return best
