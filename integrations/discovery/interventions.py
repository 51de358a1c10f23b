"""What is done to the residual stream to see whether a feature makes a difference, not only shows
one. Each takes and returns what a hook point holds, [..., inputs].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from saeguard.integrations.discovery.sae_features import Block

Floats = npt.NDArray[np.float32]

Intervention = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True)
class SetFeatures:
    """Features get other activations: what they write is taken off, and put on anew."""

    block: Block
    directions: Floats
    """What an activation of 1 writes, [features, inputs]."""
    targets: Floats
    """[features]"""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.float().reshape(-1, x.shape[-1])
        activations = torch.from_numpy(self.block(flat.cpu().numpy())).to(flat)
        moved = (torch.from_numpy(self.targets).to(flat) - activations) @ torch.from_numpy(
            self.directions
        ).to(flat)
        return x + moved.reshape(x.shape).to(x.dtype)


@dataclass(frozen=True, slots=True)
class AddFeatures:
    """Features get so much more."""

    directions: Floats
    amounts: Floats
    """[features]"""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.from_numpy(self.amounts @ self.directions).to(x)


@dataclass(frozen=True, slots=True)
class MoveTo:
    """The part along a direction becomes the same for all."""

    direction: Floats
    """Of length 1, [inputs]."""
    value: float

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        direction = torch.from_numpy(self.direction).to(x.device)
        along = x.float() @ direction
        return x + ((self.value - along)[..., None] * direction).to(x.dtype)
