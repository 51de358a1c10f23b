"""Which part of a conversation each row belongs to.

The row at position p is the state after reading token p, and takes that token's phase: prompt
tokens are `prompt`, generated ones `answer`, and those between the model's reasoning delimiters
`reasoning`. The last sampled token is never read, so it has no row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from saeguard.monitor.messages import Ints
from saeguard.rules import Phase

Codes = npt.NDArray[np.uint8]

# Opening and closing delimiters that are one token each where a model has them at all.
_DELIMITERS = (("<think>", "</think>"), ("[THINK]", "[/THINK]"))


@dataclass(frozen=True, slots=True)
class ReasoningTokens:
    """The token ids between which a model reasons."""

    opening: int
    closing: int


def reasoning_tokens(tokenizer: Any) -> ReasoningTokens | None:
    """The reasoning delimiters of a `tokenizers.Tokenizer`, or None for a model that has none."""
    for opening, closing in _DELIMITERS:
        ids = tokenizer.token_to_id(opening), tokenizer.token_to_id(closing)
        if None not in ids:
            return ReasoningTokens(*ids)
    return None


def phases_of(positions: Ints, prompt_lens: npt.NDArray[np.integer]) -> Codes:
    """Phase code of each row, reasoning apart, [tokens].

    Args:
        positions: [tokens].
        prompt_lens: [tokens], of each row's request.
    """
    return np.where(positions < prompt_lens, np.uint8(Phase.PROMPT), np.uint8(Phase.ANSWER))


class ReasoningTracker:
    """Follows one request's generated tokens, in order, each once."""

    def __init__(self, prompt_token_ids: Sequence[int], delimiters: ReasoningTokens) -> None:
        self._delimiters = delimiters
        # A template may open the reasoning itself, at the end of the prompt.
        self._is_open = _last(prompt_token_ids, delimiters.opening) > _last(
            prompt_token_ids, delimiters.closing
        )

    def mark(self, phases: Codes, token_ids: Ints) -> None:
        """Change `answer` to `reasoning`, in place, where the model is reasoning; both [tokens]."""
        for i in np.flatnonzero(phases == Phase.ANSWER):
            if token_ids[i] == self._delimiters.opening:
                self._is_open = True
            if self._is_open:
                phases[i] = Phase.REASONING
            if token_ids[i] == self._delimiters.closing:
                self._is_open = False


def _last(token_ids: Sequence[int], token_id: int) -> int:
    """Index of the last occurrence, -1 without one."""
    return next((i for i in range(len(token_ids) - 1, -1, -1) if token_ids[i] == token_id), -1)
