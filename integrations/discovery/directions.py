"""The rival of any feature: the direction from the negatives' mean to that of the positives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from saeguard.integrations.discovery.contrast import Contrast
from saeguard.integrations.discovery.corpus import Corpus
from saeguard.integrations.discovery.pooling import AGGS, Agg, Floats, pooled
from saeguard.integrations.discovery.splits import Split
from saeguard.monitor.sites import HookPoint

_TOKENS_AT_ONCE = 2**14


@dataclass(frozen=True, slots=True)
class Direction:
    """Of one hook point, fitted to the training side of a split."""

    hook_point: HookPoint
    agg: Agg
    scores: Floats
    """Of all requests, [requests]."""


def mean_directions(
    corpus: Corpus, hook_point: HookPoint, splits: Sequence[Split], contrasts: Sequence[Contrast]
) -> list[Direction]:
    """Mean differences of the requests' mean activations, each of length 1; one for each split.

    Raises:
        ConfigError: a recording cannot be read, or lacks the hook point.
    """
    means = _request_means(corpus, hook_point)
    weights = np.stack([_difference(means, split, corpus) for split in splits])
    values = pooled(corpus, hook_point, lambda x: x @ weights.T, len(splits), _TOKENS_AT_ONCE)
    found = []
    for i, (split, contrast) in enumerate(zip(splits, contrasts, strict=True)):
        both = np.stack([values[agg][:, i] for agg in AGGS], axis=1)
        best = int(contrast(both[split.train]).aurocs.argmax())
        found.append(Direction(hook_point, AGGS[best], both[:, best]))
    return found


def _request_means(corpus: Corpus, hook_point: HookPoint) -> Floats:
    means: Floats | None = None
    for i, _, x in corpus.tokens(hook_point):
        if means is None:
            means = np.zeros((len(corpus), x.shape[1]), np.float32)
        if len(x):
            means[i] = x.mean(axis=0)
    assert means is not None
    return means


def _difference(means: Floats, split: Split, corpus: Corpus) -> Floats:
    positives = means[split.train & corpus.labels].mean(axis=0)
    difference: Floats = positives - means[split.train & ~corpus.labels].mean(axis=0)
    return difference / np.float32(max(float(np.linalg.norm(difference)), 1e-12))
