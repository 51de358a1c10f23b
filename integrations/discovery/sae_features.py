"""All features of an SAE, some at a time, with the very rows that a server would watch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from saeguard.integrations.saelens import read_features
from saeguard.integrations.saelens.layouts import open_encoder
from saeguard.monitor.compile import FeatureRow
from saeguard.monitor.errors import CompileError, UnsupportedError
from saeguard.monitor.sites import HookPoint
from saeguard.monitor.watchlist import NORMS, input_scales
from saeguard.rules import Feature, SaeFeature
from saeguard.rules.errors import Location

Floats = npt.NDArray[np.float32]

_BLOCK_NUMBERS = 2**25
"""Of encoder rows at once: 256 MiB in float64."""
_CHUNK_NUMBERS = 2**25
"""Of activations at once: 128 MiB."""


@dataclass(frozen=True, slots=True)
class Block:
    """Rows of some features; their scores are those of `saeguard.monitor.watchlist`."""

    hook_point: HookPoint
    indices: tuple[int, ...]
    weight: Floats  # [features, inputs]
    bias: Floats
    threshold: Floats
    norm: int
    """Which of `NORMS`: that of the SAE."""
    sha256: str
    """Of the SAE's file."""
    inexact_reason: str

    def __call__(self, x: Floats) -> Floats:
        """Of tokens [tokens, inputs], [tokens, features]."""
        products = x @ self.weight.T
        if self.norm:
            with np.errstate(divide="ignore", invalid="ignore"):
                products *= input_scales(x.astype(np.float64))[:, self.norm, None]
        scores = products + self.bias
        return np.where(scores <= self.threshold, np.float32(0), scores).astype(np.float32)

    @property
    def tokens_at_once(self) -> int:
        return max(1, _CHUNK_NUMBERS // max(len(self.indices), 1))


@dataclass(frozen=True, slots=True)
class Sae:
    """Where an SAE is."""

    path: Path
    layer: int | None = None
    norm_scaling_factor: float | None = None

    def shape(self) -> tuple[int, int]:
        """Features, and numbers that each reads.

        Raises:
            CompileError: it cannot be read.
        """
        return open_encoder(self.path, self.layer).weights.shape

    def block(self, indices: Sequence[int]) -> Block:
        """
        Raises:
            CompileError: it cannot be read, or lacks one of the features.
        """
        rows = read_features([self._feature(i) for i in indices])
        return _block(indices, rows)

    def blocks(self, at_once: int) -> Iterator[Block]:
        """All of its features, at most so many at once."""
        for features in self.ranges(at_once):
            yield self.block(features)

    def ranges(self, at_once: int) -> list[range]:
        """The numbers of the features of each block."""
        num_features, num_inputs = self.shape()
        step = max(1, min(at_once, _BLOCK_NUMBERS // num_inputs))
        return [
            range(first, min(first + step, num_features)) for first in range(0, num_features, step)
        ]

    def written_by(self, indices: Sequence[int]) -> Floats:
        """What an activation of 1 adds to the reconstruction of each feature's input, [features,
        inputs].

        Raises:
            CompileError: it has no decoder.
            UnsupportedError: what it writes depends on the token.
        """
        encoder = open_encoder(self.path, self.layer)
        if encoder.decoder is None:
            raise CompileError(f"{encoder.file.path}: has no decoder")
        if encoder.norm != "none":
            raise UnsupportedError(
                f"{encoder.file.path}: normalises each token ({encoder.norm}): what its features "
                "write cannot be taken out"
            )
        rows = encoder.decoder.rows(indices)
        if encoder.rescaled_by_decoder:
            rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        factor = encoder.input_factor or self.norm_scaling_factor or 1.0
        return (rows / factor).astype(np.float32)

    def _feature(self, index: int) -> Feature:
        source = SaeFeature(
            self.path.absolute(),
            index,
            layer=self.layer,
            norm_scaling_factor=self.norm_scaling_factor,
        )
        location = Location(self.path)
        return Feature(f"feature {index}", "", "raw", source, location=location)


def _block(indices: Sequence[int], rows: Sequence[FeatureRow]) -> Block:
    first = rows[0]
    return Block(
        hook_point=first.hook_point,
        indices=tuple(indices),
        weight=np.array([row.weight for row in rows], np.float32),
        bias=np.array([row.bias for row in rows], np.float32),
        threshold=np.array([row.threshold for row in rows], np.float32),
        norm=NORMS.index(first.norm),
        sha256=first.source_sha256,
        inexact_reason=first.inexact_reason,
    )
