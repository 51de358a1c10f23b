"""From scores of tokens to one number for a request: the largest value that a rule would see."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from saeguard.integrations.training.material import Doubles, Tokens

_LONGEST = 999
"""Tokens of the longest window that a rule can have."""


@dataclass(frozen=True, slots=True)
class Aggregate:
    """The mean of the last `window` tokens of a phase run; of one, the score itself."""

    window: int

    def __str__(self) -> str:
        if self.window == 1:
            return "max"
        return "mean" if self.window == _LONGEST else f"mean of {self.window}"

    @property
    def yaml(self) -> str:
        """As a signal of a rule has it."""
        return "agg: value" if self.window == 1 else f"agg: mean, window: {self.window} tokens"

    @property
    def lint(self) -> str:
        """What `saeguard check` warns of where a rule has no other evidence."""
        return {1: "single-token", _LONGEST: "diluted-mean"}.get(self.window, "")

    def of_requests(self, scores: npt.NDArray[np.floating], tokens: Tokens) -> Doubles:
        """The largest value in each request [requests], of the scores [tokens].

        As in rules a score that is NaN takes its place in the window and is otherwise skipped.
        """
        values = scores if self.window == 1 else self._means(scores, tokens)
        return np.fmax.reduceat(values.astype(np.float64), tokens.request_starts)

    def _means(self, scores: npt.NDArray[np.floating], tokens: Tokens) -> Doubles:
        observed = ~np.isnan(scores)
        ends = np.arange(1, len(scores) + 1)
        begins = np.maximum(tokens.run_starts, ends - self.window)
        sums = np.concatenate([[0.0], np.cumsum(np.where(observed, scores, 0.0), dtype=np.float64)])
        counts = np.concatenate([[0], np.cumsum(observed)])
        num_observed = counts[ends] - counts[begins]
        with np.errstate(invalid="ignore"):
            return np.asarray((sums[ends] - sums[begins]) / num_observed)


CHOICES = (Aggregate(1), Aggregate(4), Aggregate(16), Aggregate(_LONGEST))
