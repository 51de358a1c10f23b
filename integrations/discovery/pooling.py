"""From scores of tokens to one number of each request: what a signal of a rule reaches there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from saeguard.integrations.discovery.corpus import Corpus
from saeguard.monitor.sites import HookPoint

Floats = npt.NDArray[np.float32]
Starts = npt.NDArray[np.intp]

Agg = Literal["max", "mean"]
"""As in a rule: the largest score, or the largest mean over a window of `WINDOW` tokens."""
AGGS: tuple[Agg, ...] = get_args(Agg)
WINDOW = 16

Score = Callable[[Floats], Floats]
"""From activations [tokens, inputs] to scores [tokens, features]."""


@dataclass(frozen=True, slots=True)
class TokenScores:
    """Scores of whole requests, one after the other."""

    scores: Floats  # [tokens, features]
    starts: Starts  # [requests], the first token of each

    def pooled(self, agg: Agg) -> Floats:
        """[requests, features]"""
        highest: Floats = np.maximum.reduceat(self.seen(agg), self.starts, axis=0)
        return highest

    def seen(self, agg: Agg) -> Floats:
        """Of which the largest of a request counts, [tokens, features]."""
        return self.scores if agg == "max" else self._means()

    def _means(self) -> Floats:
        """Over the last `WINDOW` tokens of the request, or as many as there are."""
        num_tokens = len(self.scores)
        sums = np.zeros((num_tokens + 1, self.scores.shape[1]))
        np.cumsum(self.scores, axis=0, dtype=np.float64, out=sums[1:])
        ends = np.arange(1, num_tokens + 1)
        lengths = np.diff([*self.starts, num_tokens])
        begins = np.maximum(ends - WINDOW, np.repeat(self.starts, lengths))
        means: Floats = ((sums[ends] - sums[begins]) / (ends - begins)[:, None]).astype(np.float32)
        return means


def token_scores(
    corpus: Corpus, hook_point: HookPoint, score: Score, tokens_at_once: int
) -> Iterator[tuple[list[int], TokenScores]]:
    """Scores of all requests that have a token, some requests at a time, with their numbers."""
    numbers: list[int] = []
    parts: list[Floats] = []
    num_tokens = 0
    for i, _, x in corpus.tokens(hook_point):
        if not len(x):
            continue
        if parts and num_tokens + len(x) > tokens_at_once:
            yield numbers, _joined(parts, score)
            numbers, parts, num_tokens = [], [], 0
        numbers.append(i)
        parts.append(np.array(x))
        num_tokens += len(x)
    if parts:
        yield numbers, _joined(parts, score)


def pooled(
    corpus: Corpus, hook_point: HookPoint, score: Score, num_scores: int, tokens_at_once: int
) -> dict[Agg, Floats]:
    """Of each request [requests, features]; 0 where it has no token."""
    found = {agg: np.zeros((len(corpus), num_scores), np.float32) for agg in AGGS}
    for numbers, part in token_scores(corpus, hook_point, score, tokens_at_once):
        for agg in AGGS:
            found[agg][numbers] = part.pooled(agg)
    return found


def _joined(parts: Sequence[Floats], score: Score) -> TokenScores:
    starts = np.cumsum([0, *map(len, parts[:-1])], dtype=np.intp)
    return TokenScores(score(np.concatenate(parts)), starts)
