"""What chosen features fire on: tokens and examples, all of the side that they were chosen on."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from saeguard.integrations.discovery.corpus import Corpus, Which
from saeguard.integrations.discovery.sae_features import Block
from saeguard.monitor.tokenizer_file import read_tokenizer
from saeguard.rules.recordings.offline import RecordedRequest

_NUM_TOKENS, _NUM_EXAMPLES = 5, 3
_AROUND = 8
"""Tokens of the same phase before and after the one that is shown."""


@dataclass(frozen=True, slots=True)
class TopToken:
    """A token, and what the feature says on it in the mean."""

    text: str
    mean: float
    count: int
    """How often it occurs."""


@dataclass(frozen=True, slots=True)
class Example:
    """Where in a request the feature is highest."""

    request_id: str
    label: bool
    position: int
    value: float
    before: str
    token: str
    after: str


@dataclass(frozen=True, slots=True)
class Evidence:
    """Of one feature."""

    feature: int
    density: tuple[float, float]
    """The share of the positives' tokens, and of the negatives', on which it is not 0."""
    tokens: tuple[TopToken, ...]
    examples: tuple[Example, ...]
    """Of different groups."""


class Texts:
    """What tokens look like."""

    def __init__(self, tokenizer_file: Path | None) -> None:
        """
        Args:
            tokenizer_file: None, or one that cannot be read: tokens are shown by their numbers.
        """
        self._tokenizer: Tokenizer | None = None
        if tokenizer_file is not None and tokenizer_file.is_file():
            try:
                self._tokenizer = read_tokenizer(str(tokenizer_file))
            except Exception:  # the library has nothing narrower
                self._tokenizer = None

    def __call__(self, token_ids: Sequence[int]) -> str:
        if self._tokenizer is None:
            return "".join(f"[{token}]" for token in token_ids)
        return str(self._tokenizer.decode(list(token_ids), skip_special_tokens=False))


def evidence(corpus: Corpus, block: Block, train: Which, texts: Texts) -> list[Evidence]:
    """Of each feature of the block.

    Raises:
        ConfigError: a recording cannot be read.
    """
    num = len(block.indices)
    active = np.zeros((2, num))
    num_tokens = np.zeros(2)
    sums: dict[int, np.ndarray] = defaultdict(lambda: np.zeros(num))
    counts: dict[int, int] = defaultdict(int)
    peaks: list[list[tuple[float, int]]] = [[] for _ in range(num)]
    shown: dict[int, tuple[RecordedRequest, np.ndarray]] = {}
    for i, request, x in corpus.tokens(block.hook_point):
        if not train[i] or not len(x):
            continue
        scores = block(x)
        side = int(corpus.labels[i])
        active[side] += (scores != 0).sum(axis=0)
        num_tokens[side] += len(x)
        for token, row in zip(_ids(request), scores, strict=True):
            sums[token] += row
            counts[token] += 1
        for j, peak in enumerate(scores.max(axis=0)):
            if peak > 0:
                _keep(peaks[j], float(peak), i, corpus.groups)
        wanted = {i for kept in peaks for _, i in kept}
        if i in wanted:
            shown[i] = request, scores
        for old in shown.keys() - wanted:
            del shown[old]
    density = active / np.maximum(num_tokens, 1)[:, None]
    return [
        Evidence(
            feature,
            (float(density[1, j]), float(density[0, j])),
            _top_tokens(j, sums, counts, texts),
            tuple(
                _example(corpus, i, *shown[i], j, texts)
                for _, i in sorted(peaks[j], key=lambda peak: -peak[0])
            ),
        )
        for j, feature in enumerate(block.indices)
    ]


def _ids(request: RecordedRequest) -> list[int]:
    if request.token_ids is None:
        return [-1] * len(request.positions)
    return [int(token) for token in request.token_ids]


def _keep(kept: list[tuple[float, int]], peak: float, i: int, groups: Sequence[str]) -> None:
    """The highest peaks, one of each group."""
    for place, (old, j) in enumerate(kept):
        if groups[j] == groups[i]:
            if peak > old:
                kept[place] = (peak, i)
            return
    kept.append((peak, i))
    if len(kept) > _NUM_EXAMPLES:
        kept.remove(min(kept))


def _top_tokens(
    j: int, sums: dict[int, np.ndarray], counts: dict[int, int], texts: Texts
) -> tuple[TopToken, ...]:
    """Those that occur at least twice, unless none does."""
    often = [token for token, count in counts.items() if count > 1] or list(counts)
    means = {token: float(sums[token][j]) / counts[token] for token in often if token >= 0}
    best = heapq.nlargest(_NUM_TOKENS, means, key=lambda token: means[token])
    return tuple(TopToken(texts([t]), means[t], counts[t]) for t in best if means[t] > 0)


def _example(
    corpus: Corpus, i: int, request: RecordedRequest, scores: np.ndarray, j: int, texts: Texts
) -> Example:
    at = int(scores[:, j].argmax())
    ids = _ids(request) if request.token_ids is not None else []
    return Example(
        request_id=corpus.ids[i],
        label=bool(corpus.labels[i]),
        position=int(request.positions[at]),
        value=float(scores[at, j]),
        before=texts(ids[max(0, at - _AROUND) : at]),
        token=texts(ids[at : at + 1]),
        after=texts(ids[at + 1 : at + 1 + _AROUND]),
    )
