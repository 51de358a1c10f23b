"""How well a threshold stands in for TopK, measured on activations of the user's own.

Of each token TopK keeps the k largest activations of all features. A row alone cannot know the
k-th largest, so a threshold takes its place: the median of the k-th largest over a sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from saeguard.integrations.saelens.encoder import Encoder
from saeguard.integrations.saelens.tensors import Doubles, open_tensors
from saeguard.monitor.errors import CompileError
from saeguard.monitor.sites import HookPoint
from saeguard.monitor.watchlist import NORMS, input_scales

_MAX_TOKENS = 4096
_MAX_ACTIVATIONS = 2**25  # 128 MiB in fp32

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Sample:
    """Activations of some tokens at one place of the model."""

    name: str
    x: Doubles  # [tokens, inputs]


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of one feature, with a threshold in the place of TopK."""

    num_fired: int
    """Tokens on which TopK keeps it."""
    num_found: int
    """Those of them on which it is above the threshold."""
    num_claimed: int
    """All tokens on which it is."""


def read_sample(path: Path, hook_point: HookPoint) -> Sample:
    """The matrix [tokens, inputs] that is named after the hook point, or the only one there is; of
    many tokens some, evenly spaced.

    Raises:
        CompileError: the file has none.
    """
    file = open_tensors(path)
    matrices = [name for name, shape in file.shapes.items() if len(shape) == 2 and shape[0] > 0]
    name = str(hook_point) if str(hook_point) in matrices else matrices[0] if matrices else ""
    if name != str(hook_point) and len(matrices) != 1:
        raise CompileError(
            f"{path}: has no activations [tokens, inputs] named {str(hook_point)!r}",
            f"it has {', '.join(matrices) or 'none at all'}",
        )
    num_tokens = file.shapes[name][0]
    picked = np.linspace(0, num_tokens - 1, min(num_tokens, _MAX_TOKENS)).astype(int)
    return Sample(path.name, file.rows(name, picked.tolist()))


def calibrate(
    encoder: Encoder, factor: float, features: Sequence[int], sample: Sample
) -> tuple[float, list[Agreement]]:
    """The threshold that stands in for TopK, and how well it does so for each of the features.

    Raises:
        CompileError: the sample is not of the SAE's inputs, or its k is not known.
    """
    k = encoder.gate.top_k or 0
    num_features, num_inputs = encoder.weights.shape
    if not 0 < k < num_features:
        raise CompileError(f"{encoder.file.path}: its files do not say how many features it keeps")
    if sample.x.shape[1] != num_inputs:
        raise CompileError(
            f"{sample.name}: has {sample.x.shape[1]} numbers of each token, and the SAE reads "
            f"{num_inputs}"
        )
    watched, smallest_kept = [], []
    for activations in _all_activations(encoder, factor, sample.x):
        watched.append(activations[:, list(features)].copy())
        activations.partition(num_features - k, axis=1)
        smallest_kept.append(activations[:, num_features - k].copy())
    values, floors = np.concatenate(watched), np.concatenate(smallest_kept)[:, None]
    threshold = float(np.median(floors))
    fired, claimed = (values >= floors) & (values > 0), values > threshold
    agreements = [
        Agreement(int(f.sum()), int((f & c).sum()), int(c.sum()))
        for f, c in zip(fired.T, claimed.T, strict=True)
    ]
    return threshold, agreements


def _all_activations(encoder: Encoder, factor: float, x: Doubles) -> Iterator[Floats]:
    """Of some tokens at a time, [tokens, all features], as before TopK."""
    norms = encoder.decoder.norms() if encoder.rescaled_by_decoder and encoder.decoder else None
    if encoder.norm == "layer_norm":
        x = x - x.mean(axis=1, keepdims=True)
    x = x * input_scales(x)[:, [NORMS.index(encoder.norm)]] * factor
    if encoder.b_dec is not None:
        x = x - encoder.b_dec
    step = max(1, _MAX_ACTIVATIONS // encoder.weights.shape[0])
    for start in range(0, len(x), step):
        p = encoder.weights.products(x[start : start + step])
        p += encoder.gate.bias.astype(np.float32)
        if norms is not None:
            p *= norms.astype(np.float32)
        yield np.maximum(p, 0.0, out=p)
