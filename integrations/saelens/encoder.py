"""The encoder of an SAE on disk, in one form whatever the layout of its files.

For feature i with the encoder's row w of an input x, and n(x) the SAE's normalisation of it,

    p_i = slope_i * (n(x) @ w - b_dec @ w) + bias_i     (b_dec only where it is subtracted)
    activation = p_i if p_i > threshold_i else 0

which is exact for all but TopK, where an activation depends on all features of the token at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from saeguard.integrations.saelens.tensors import Doubles, TensorFile
from saeguard.monitor.errors import CompileError
from saeguard.monitor.watchlist import Norm


@dataclass(frozen=True, slots=True)
class Matrix:
    """One row per feature, wherever the file has them."""

    file: TensorFile
    name: str
    features_first: bool
    """Whether a feature is a row of the stored tensor, or a column."""

    @classmethod
    def if_there(cls, file: TensorFile, name: str, features_first: bool) -> Matrix | None:
        is_matrix = len(file.shapes.get(name, ())) == 2
        return cls(file, name, features_first) if is_matrix else None

    @property
    def shape(self) -> tuple[int, int]:
        """Features, and numbers of each."""
        shape = self.file.shapes.get(self.name, ())
        if len(shape) != 2:
            raise CompileError(f"{self.file.path}: {self.name} is missing or no matrix: {shape}")
        return (shape[0], shape[1]) if self.features_first else (shape[1], shape[0])

    def rows(self, features: Sequence[int]) -> Doubles:
        """[features, numbers]."""
        read = self.file.rows if self.features_first else self.file.columns
        return read(self.name, features)

    def products(self, x: Doubles) -> npt.NDArray[np.float32]:
        """x @ all rows in fp32, [tokens, all features]; reads the matrix once."""
        out = np.zeros((len(x), self.shape[0]), np.float32)
        for start, block in self.file.blocks(self.name):
            part = slice(start, start + len(block))
            block = block.astype(np.float32)
            if self.features_first:
                out[:, part] = x.astype(np.float32) @ block.T
            else:
                out += x[:, part].astype(np.float32) @ block
        return out

    def norms(self) -> Doubles:
        """Of every feature."""
        squares = np.zeros(self.shape[0])
        for start, block in self.file.blocks(self.name):
            summed = np.square(block, dtype=np.float64).sum(axis=1 if self.features_first else 0)
            if self.features_first:
                squares[start : start + len(block)] = summed
            else:
                squares += summed
        return np.sqrt(squares)


@dataclass(frozen=True, slots=True)
class Gate:
    """What becomes of the product of a feature; see the module. Each array [features]."""

    slope: Doubles
    bias: Doubles
    threshold: Doubles
    top_k: int | None = None
    """Of TopK: how many features are left of a token; 0 where the files do not say."""


def relu(b_enc: Doubles) -> Gate:
    return Gate(np.ones_like(b_enc), b_enc, np.zeros_like(b_enc))


def jump_relu(b_enc: Doubles, threshold: Doubles) -> Gate:
    """relu(p) * (p > threshold): below zero the ReLU decides. One threshold may stand for all."""
    if len(threshold) == 1:
        threshold = np.full_like(b_enc, threshold[0])
    return Gate(np.ones_like(b_enc), b_enc, np.maximum(threshold, 0.0))


def gated(b_gate: Doubles, b_mag: Doubles, r_mag: Doubles) -> Gate:
    """(q + b_gate > 0) * relu(p) with p = q * exp(r_mag) + b_mag. Gate and magnitude share the row,
    and p grows with q, so the gate is a threshold on p.
    """
    slope = np.exp(r_mag)
    return Gate(slope, b_mag, np.maximum(b_mag - b_gate * slope, 0.0))


def top_k(b_enc: Doubles, k: int, threshold: float = 0.0) -> Gate:
    gate = jump_relu(b_enc, np.array([threshold]))
    return Gate(gate.slope, gate.bias, gate.threshold, k)


@dataclass(frozen=True, slots=True)
class Encoder:
    """An SAE's encoder, and what else its files say."""

    layout: str
    architecture: str
    file: TensorFile
    hook_name: str | None
    """Where x is read, by TransformerLens' name; None where the files do not tell."""
    weights: Matrix
    gate: Gate
    b_dec: Doubles | None = None
    """Subtracted from the normalised input, [inputs]; None where it is not."""
    decoder: Matrix | None = None
    norm: Norm = "none"
    input_factor: float | None = 1.0
    """What `expected_average_only_in` multiplies the input by; None where the files do not say."""
    rescaled_by_decoder: bool = False
    """Whether activations are in units of the decoder's norm to begin with."""
    neuronpedia_id: str | None = None

    def check(self) -> None:
        """
        Raises:
            CompileError: the tensors do not fit each other.
        """
        num_features, num_inputs = self.weights.shape
        if not num_features or not num_inputs:
            raise CompileError(f"{self.file.path}: the encoder is empty: {self.weights.shape}")
        gate = self.gate
        lengths = {len(gate.slope), len(gate.bias), len(gate.threshold)}
        if lengths != {num_features}:
            raise CompileError(
                f"{self.file.path}: the encoder has {num_features} features, its biases and "
                f"thresholds are for {', '.join(map(str, sorted(lengths)))}"
            )
        if self.b_dec is not None and len(self.b_dec) != num_inputs:
            raise CompileError(
                f"{self.file.path}: the encoder reads {num_inputs} numbers, b_dec has "
                f"{len(self.b_dec)}"
            )
        if self.decoder is not None and self.decoder.shape[0] != num_features:
            raise CompileError(
                f"{self.file.path}: the encoder has {num_features} features, the decoder "
                f"{self.decoder.shape[0]}"
            )
