"""Feature sets: a few features of an SAE with weights, and what they say of requests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from saeguard.integrations.discovery.corpus import Corpus
from saeguard.integrations.discovery.pooling import Agg, Floats, TokenScores, token_scores
from saeguard.integrations.discovery.sae_features import Block
from saeguard.integrations.probes.file import Mlp, Probe


@dataclass(frozen=True, slots=True)
class FeatureSet:
    """A weighted sum of how far features are above their thresholds; or one feature, as it is."""

    features: tuple[int, ...]
    weights: tuple[float, ...]
    bias: float
    agg: Agg

    @classmethod
    def single(cls, feature: int, agg: Agg) -> FeatureSet:
        return cls((feature,), (1.0,), 0.0, agg)

    def __call__(self, block: Block, x: Floats) -> Floats:
        """What a rule reads of tokens [tokens, inputs], [tokens, 1].

        Args:
            block: of the set's features.
        """
        scores = block(x)
        if len(self.features) == 1:
            return scores
        weights = np.array(self.weights, np.float32)
        return (above(scores, block.threshold) @ weights + np.float32(self.bias))[:, None]

    def as_probe(self, block: Block) -> Probe:
        """The same for the rule language, which has no weights: a hidden unit for each feature."""
        return Probe(
            Mlp("relu"),
            {
                "hidden_weight": block.weight,
                "hidden_bias": block.bias - block.threshold,
                "weight": np.array(self.weights),
                "bias": np.array([self.bias]),
            },
        )


def above(scores: Floats, thresholds: Floats) -> Floats:
    """How far features are above their thresholds, 0 where they are 0; [tokens, features]."""
    return np.where(scores != 0, scores - thresholds, np.float32(0))


class Candidates:
    """What some features say of every token of a corpus."""

    def __init__(self, corpus: Corpus, block: Block) -> None:
        """
        Raises:
            ConfigError: a recording cannot be read.
        """
        parts = list(token_scores(corpus, block.hook_point, block, block.tokens_at_once))
        numbers = np.array([i for part, _ in parts for i in part], np.intp)
        lengths = [np.diff([*scores.starts, len(scores.scores)]) for _, scores in parts]
        starts = np.cumsum([0, *np.concatenate(lengths)[:-1]], dtype=np.intp)
        self._tokens = TokenScores(np.concatenate([scores.scores for _, scores in parts]), starts)
        self._thresholds = block.threshold
        self.can_be_weighed = not block.norm
        """Whether a probe can say what a set says: none reads tokens normalised."""
        self._numbers = numbers
        self._columns = {feature: column for column, feature in enumerate(block.indices)}
        self._num_requests = len(corpus)
        self.request = np.repeat(numbers, np.concatenate(lengths))
        """Which request each token is of, [tokens]; tokens of a request are neighbours."""

    def of(self, found: FeatureSet | None) -> Floats:
        """What a set reaches in each request, [requests]; 0 where it has no token, or is none."""
        out = np.zeros(self._num_requests, np.float32)
        if found is None:
            return out
        columns = [self._columns[feature] for feature in found.features]
        scores = self._tokens.scores[:, columns]
        if len(columns) > 1:
            above_threshold = above(scores, self._thresholds[columns])
            scores = above_threshold @ np.array(found.weights, np.float32)[:, None] + found.bias
        out[self._numbers] = TokenScores(scores, self._tokens.starts).pooled(found.agg)[:, 0]
        return out

    def seen(self, features: Sequence[int], agg: Agg) -> Floats:
        """How far features are above their thresholds, as an aggregate sees it on each token before
        it takes the largest, [tokens, features].
        """
        columns = [self._columns[feature] for feature in features]
        x = above(self._tokens.scores[:, columns], self._thresholds[columns])
        return TokenScores(x, self._tokens.starts).seen(agg)
