"""Growing feature sets on the training side of a split, and choosing how large one should be.

A request's score is the largest of its tokens' (or windows'), so a positive needs one token that
tells, and which one nobody has said. The weights are those of a logistic regression in which each
token counts for its share in the request's soft maximum, found anew after each fit: the few tokens
that tell of a request come to stand for it, positive or negative. The next feature is the one along
which the loss falls most steeply (orthogonal matching pursuit, Y. Pati et al., Asilomar 1993).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from saeguard.integrations.discovery.corpus import Corpus, Which
from saeguard.integrations.discovery.feature_sets import Candidates, FeatureSet
from saeguard.integrations.discovery.logistic import Doubles, chances, fit_logistic
from saeguard.integrations.discovery.pooling import AGGS, Agg
from saeguard.integrations.discovery.splits import group_folds
from saeguard.rules.calibration.ranking import auroc

_NUM_FOLDS = 3
"""Of the training side's groups, to choose a size."""
_LEAST_MENDED = 0.1
"""Of the pairs of a positive and a negative that are in the wrong order: what puts fewer right is
not worth another feature."""
_NUM_ROUNDS = 3


def choose(
    candidates: Candidates,
    features: Sequence[int],
    best: FeatureSet,
    corpus: Corpus,
    train: Which,
    max_features: int,
    seed: int,
) -> FeatureSet:
    """The smallest set after which larger ones mend little, judged within the training side on
    groups that its weights were not fitted on; `best`, the best single feature, if none mends much.
    """
    places = np.flatnonzero(train)
    groups, labels = [corpus.groups[i] for i in places], corpus.labels[places]
    if max_features == 1 or not candidates.can_be_weighed or not _can_be_parted(groups, labels):
        return best
    folds = group_folds(groups, _NUM_FOLDS, seed, labels)
    wrong: dict[tuple[Agg, int], float] = {}
    for fold in range(_NUM_FOLDS):
        part, rest = train.copy(), places[folds == fold]
        part[rest] = False
        for agg in AGGS:
            for found in grow(candidates, features, agg, corpus.labels, part, max_features):
                key = agg, len(found.features)
                pairs = 1 - auroc(candidates.of(found)[rest], corpus.labels[rest])
                wrong[key] = wrong.get(key, 0.0) + pairs / _NUM_FOLDS
    least = 1 - auroc(candidates.of(best)[places], labels)
    taken: tuple[Agg, int] | None = None
    for key in sorted(wrong, key=lambda key: key[1]):
        if key[1] > 1 and wrong[key] < least * (1 - _LEAST_MENDED):
            taken, least = key, wrong[key]
    if taken is None:
        return best
    agg, size = taken
    return grow(candidates, features, agg, corpus.labels, train, size)[-1]


def grow(
    candidates: Candidates,
    features: Sequence[int],
    agg: Agg,
    labels: Which,
    train: Which,
    max_features: int,
) -> list[FeatureSet]:
    """Sets of 1, 2, … of the features, each the one before and one more."""
    used = train[candidates.request]
    request = candidates.request[used]
    x = candidates.seen(features, agg)[used]
    scale = np.maximum(x.std(axis=0), 1e-6)
    x /= scale
    y, balance, starts = labels[request], _balance(labels, train, request), _starts(request)
    weight = balance / np.repeat(lengths := np.diff([*starts, len(request)]), lengths)
    chosen: list[int] = []
    beta, logits, sets = np.zeros(1), np.zeros(len(x)), []
    for _ in range(min(max_features, len(features))):
        steepness = np.abs((weight * (y - chances(logits))) @ x)
        steepness[chosen] = -1.0
        chosen.append(int(steepness.argmax()))
        beta = np.insert(beta, -1, 0.0)
        for _ in range(_NUM_ROUNDS):
            beta = fit_logistic(x[:, chosen], y, weight, beta)
            logits = x[:, chosen] @ beta[:-1] + beta[-1]
            weight = balance * _shares(logits, starts)
        weights = tuple((beta[:-1] / scale[chosen]).tolist())
        named = tuple(features[i] for i in chosen)
        sets.append(FeatureSet(named, weights, float(beta[-1]), agg))
    return sets


def _balance(labels: Which, train: Which, request: np.ndarray) -> Doubles:
    """What a token's request weighs, [tokens]: positives as much together as negatives."""
    has_tokens = np.zeros(len(labels), bool)
    has_tokens[request] = True
    counts = [int((has_tokens & train & (labels == side)).sum()) for side in (False, True)]
    return np.where(labels[request], 0.5 / max(counts[1], 1), 0.5 / max(counts[0], 1))


def _starts(request: np.ndarray) -> np.ndarray:
    return np.flatnonzero(np.diff(request, prepend=-1))


def _shares(logits: Doubles, starts: np.ndarray) -> Doubles:
    """Of each token in the soft maximum of its request's, [tokens]."""
    lengths = np.diff([*starts, len(logits)])
    highest = np.repeat(np.maximum.reduceat(logits, starts), lengths)
    parts = np.exp(logits - highest)
    found: Doubles = parts / np.repeat(np.add.reduceat(parts, starts), lengths)
    return found


def _can_be_parted(groups: Sequence[str], labels: Which) -> bool:
    """Whether each fold can have groups of both kinds."""
    kinds = [{g for g, is_positive in zip(groups, labels, strict=True) if is_positive == side}
             for side in (True, False)]  # fmt: skip
    return min(map(len, kinds)) >= _NUM_FOLDS
