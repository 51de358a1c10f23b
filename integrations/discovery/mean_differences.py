"""Where prompts of one label lie apart from those of the other in each layer, to move them there.

What decides may be read in many layers, and what is moved in one of them is written anew by those
that follow: so each layer has a direction of its own, and all can be moved at once. Prompts that
are alike but for their label make the difference one of the label: against anything else that the
model does it is one of everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from saeguard.integrations.discovery.behaviour import NUM_FOLDS, Behaviour, Way
from saeguard.integrations.discovery.generation import Floats
from saeguard.integrations.discovery.interventions import MoveTo
from saeguard.monitor.sites import HookPoint


@dataclass(frozen=True, slots=True, eq=False)
class MeanDifferences:
    """For each fold of prompts from the others, [folds, layers, inputs] each."""

    layers: Sequence[HookPoint]
    positives: Floats
    negatives: Floats
    random: Floats
    """Directions, [draws, layers, inputs]."""

    def way(self, places: Sequence[HookPoint], to_positives: bool, draw: int | None = None) -> Way:
        """To move what leaves some layers to where the mean of one label is.

        Args:
            draw: along a random direction; None: along the mean difference.
        """
        differences = self.positives - self.negatives
        targets = self.positives if to_positives else self.negatives

        def moved(fold: int) -> dict[HookPoint, MoveTo]:
            found = {}
            for place in places:
                layer = self.layers.index(place)
                along = (differences[fold] if draw is None else self.random[draw])[layer]
                along = along / np.float32(max(float(np.linalg.norm(along)), 1e-12))
                found[place] = MoveTo(along, float(targets[fold, layer] @ along))
            return found

        return moved


def mean_differences(
    positives: Behaviour,
    negatives: Behaviour,
    layers: Sequence[HookPoint],
    num_random: int,
    seed: int,
) -> MeanDifferences:
    """Of prompts as the model reads and answers them untouched."""
    of_positives, of_negatives = _of_others(positives), _of_others(negatives)
    shape = (num_random, *of_positives.shape[1:])
    random = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return MeanDifferences(layers, of_positives, of_negatives, random)


def _of_others(behaviour: Behaviour) -> Floats:
    """Of the prompts that are not of a fold the mean, [folds, layers, inputs]."""
    means = behaviour.means()
    return np.stack([means[behaviour.folds != fold].mean(axis=0) for fold in range(NUM_FOLDS)])
