"""What a probe learns from: tokens of some requests at one hook point, standardised, weighed."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from saeguard.integrations.training.material import Doubles, Flags, Floats, Material
from saeguard.monitor.sites import HookPoint

_SILENT = 1e-6
"""Of the largest standard deviation: an input that varies less is numerical noise."""


@dataclass(frozen=True, slots=True, eq=False)
class Lesson:
    """Positives and negatives weigh the same together; requests of a class the same each, whatever
    their length; and tokens of a request the same each.
    """

    x: Floats = field(repr=False)
    """[tokens, inputs], each input with mean 0 and standard deviation 1."""
    y: Flags = field(repr=False)
    """[tokens]"""
    weight: Doubles = field(repr=False)
    """[tokens], together 1."""
    request: npt.NDArray[np.intp] = field(repr=False)
    """[tokens]"""
    run: npt.NDArray[np.intp] = field(repr=False)
    """[tokens]"""
    mean: Doubles = field(repr=False)
    """[inputs], of the activations as they were."""
    scale: Doubles = field(repr=False)
    """[inputs], their standard deviation; infinite where they do not vary."""

    @classmethod
    def of(
        cls, material: Material, hook_point: HookPoint, train: Flags, whole: bool = False
    ) -> Lesson:
        """
        Args:
            train: the requests to learn from [requests].
            whole: with the tokens outside of labels' spans.
        """
        tokens = material.tokens
        weight = _weights(material, train, tokens.observed if whole else tokens.taught)
        used = weight > 0
        x, weight = material.at(hook_point)[used], weight[used]
        mean = weight @ x
        x -= mean.astype(np.float32)
        scale = np.sqrt(weight @ np.square(x))
        scale[scale <= _SILENT * scale.max()] = np.inf
        x /= scale.astype(np.float32)
        request = tokens.request[used]
        y = material.labels[request]
        return cls(x, y, weight, request, tokens.run[used], mean, scale)

    def on_raw(self, rows: Doubles) -> tuple[Doubles, Doubles]:
        """Rows and biases that give on raw activations what `rows` give on standardised ones.

        Args:
            rows: [..., inputs].
        """
        raw = rows / self.scale
        return raw, -(raw @ self.mean)


def _weights(material: Material, train: Flags, usable: Flags) -> Doubles:
    """[tokens], 0 where nothing is learnt from it."""
    request, labels = material.tokens.request, material.labels
    usable = usable & train[request]
    num_tokens = np.bincount(request[usable], minlength=len(labels))
    share = np.zeros(len(labels))
    for side in (True, False):
        of_side = (labels == side) & (num_tokens > 0)
        share[of_side] = 0.5 / (of_side.sum() * num_tokens[of_side])
    return np.where(usable, share[request], 0.0)
