"""Series shorthand: the scores of one feature on successive tokens, separated by spaces.

    5          one token with the score 5
    0x40       forty tokens with 0
    1+0.5x10   ten tokens that rise by 0.5 each: 1, 1.5, … 5.5
    5-0.5x4    four that fall: 5, 4.5, 4, 3.5
    _          one token on which the feature was not observed;  _x3  three of them

What stands after `x` is always the number of tokens, so the length of a series is easily seen.
"""

from __future__ import annotations

import re
from itertools import groupby

import numpy as np

from saeguard.rules.engine.aggregates import Scores

MAX_TOKENS = 100_000

_UNSIGNED = r"(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_ITEM = re.compile(rf"(_|[-+]?{_UNSIGNED})([-+]{_UNSIGNED})?(?:x(\d+))?")


class SeriesError(ValueError):
    """The text is not a series; `offset` counts the characters before the mistake."""

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(message)
        self.offset = offset


def parse_series(text: str) -> Scores:
    """The scores, [tokens], NaN where not observed.

    Raises:
        SeriesError: the text is not a series.
    """
    parts = []
    num_tokens = 0
    for word in re.finditer(r"\S+", text):
        parts.append(_item(word[0], word.start()))
        num_tokens += len(parts[-1])
        if num_tokens > MAX_TOKENS:
            raise SeriesError(f"longer than {MAX_TOKENS:,} tokens", word.start())
    if not parts:
        raise SeriesError("an empty series", 0)
    return np.concatenate(parts)


def format_series(scores: Scores) -> str:
    """The shorthand of scores, [tokens], none of them infinite: `parse_series` reads the same."""
    runs = [(word, len([*same])) for word, same in groupby(map(_shortest, scores))]
    return " ".join(word if length == 1 else f"{word}x{length}" for word, length in runs)


def _shortest(score: np.float32) -> str:
    """The number of fewest digits that is read as the same float32."""
    return "_" if np.isnan(score) else str(score).removesuffix(".0")


def _item(word: str, offset: int) -> Scores:
    item = _ITEM.fullmatch(word)
    if item is None:
        raise SeriesError(f"{word[:40]!r} is not like 5, 0x40, 1+0.5x10, _ or _x3", offset)
    start, step, times = item.groups()
    if step is not None and (times is None or start == "_"):
        raise SeriesError(f"{word[:40]!r}: a step goes like 1+0.5x10, which is ten tokens", offset)
    num_tokens = 1 if times is None else int(times[:7])
    if not 0 < num_tokens <= MAX_TOKENS:
        raise SeriesError(f"{word[:40]!r}: x1 to x{MAX_TOKENS}", offset)
    if start == "_":
        return np.full(num_tokens, np.nan, np.float32)
    scores = float(start) + float(step or 0) * np.arange(num_tokens)
    with np.errstate(over="ignore"):
        single = scores.astype(np.float32)
    if not np.isfinite(single).all():
        raise SeriesError(f"{word[:40]!r}: too large for a score", offset)
    return single
