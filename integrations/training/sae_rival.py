"""Features of an SAE as a rival: how well a few of them tell positives from negatives, chosen and
weighed on the same requests as a probe is trained on.

A feature's score of a request is its largest activation in the answer. The sets are the few whose
means differ most between the classes, in standard deviations, weighed by logistic regression.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from saeguard.integrations.discovery.sae_features import Sae
from saeguard.integrations.training.linear import logistic_regression
from saeguard.integrations.training.material import Doubles, Flags, Floats, Material
from saeguard.monitor.errors import ConfigError

SIZES = (1, 4, 16)
"""Of the sets to choose among."""
_PENALTY = 0.01
_AT_ONCE = 1024
"""Features whose activations of all tokens are in memory together."""


class SaeRival:
    """Sets of features, the smallest first."""

    def __init__(self, path: Path, material: Material) -> None:
        """
        Raises:
            SaeguardError: the SAE cannot be read, or what it reads was not captured.
        """
        self._labels = material.labels
        self._largest, self.caveat = _largest_activations(path, material)
        self._sizes = [size for size in SIZES if size <= self._largest.shape[1]]
        self.name = f"the best features of {path.name}"

    def scores(self, train: Flags) -> Doubles:
        """[candidates, requests]"""
        ranked = self._ranked(train)
        return np.array([self._set_scores(ranked[:size], train) for size in self._sizes])

    def describe(self, candidate: int) -> str:
        """The set that all requests together choose."""
        features = self._ranked(np.ones(len(self._labels), np.bool_))[: self._sizes[candidate]]
        return f"features {', '.join(map(str, features))}"

    def _ranked(self, train: Flags) -> npt.NDArray[np.intp]:
        """All features, those whose classes differ most first."""
        sides = [self._largest[train & (self._labels == side)] for side in (True, False)]
        gap = sides[0].mean(axis=0) - sides[1].mean(axis=0)
        spread = np.sqrt((sides[0].var(axis=0) + sides[1].var(axis=0)) / 2)
        effect = np.abs(gap) / np.maximum(spread, 1e-3 * spread.max() + 1e-12)
        return np.argsort(-effect, kind="stable")

    def _set_scores(self, features: npt.NDArray[np.intp], train: Flags) -> Doubles:
        x = self._largest[:, features]
        x = x / np.maximum(x[train].std(axis=0), 1e-6)
        y = self._labels[train]
        weight = np.where(y, 0.5 / y.sum(), 0.5 / (~y).sum())
        model = logistic_regression()
        model.set_params(C=1.0 / _PENALTY).fit(x[train], y, weight)
        return np.asarray(model.decision_function(x), np.float64)


def _largest_activations(path: Path, material: Material) -> tuple[Floats, str]:
    """[requests, features], and why they are not exactly the features' (empty where they are)."""
    parts, reason = [], ""
    for block in Sae(path).blocks(_AT_ONCE):
        at, num_inputs = block.hook_point, block.weight.shape[1]
        if at not in material.activations:
            used = ", ".join(map(str, material.activations))
            raise ConfigError(
                f"{path}: the SAE reads {at}, which is not among what is used here: {used}",
                f"capture it too: --activations {at}",
            )
        if num_inputs != material.at(at).shape[1]:
            raise ConfigError(
                f"{path}: the SAE reads {num_inputs} numbers, and {at} was captured "
                f"{material.at(at).shape[1]} wide",
                "it is of another model",
            )
        largest = np.fmax.reduceat(block(material.at(at)), material.tokens.request_starts)
        parts.append(largest)
        reason = block.inexact_reason
    return np.concatenate(parts, axis=1), reason
