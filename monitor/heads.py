"""Heads: how the rows of one probe become one score. What is left to be done where a probe is more
than a row of its site.

    linear      bias + weight · y, of a hidden layer y
    attention   bias + Σ_h Σ_i softmax_i(query_h · y_i) value_h · y_i   over the tokens i so far
    multimax    bias + Σ_h max_i value_h · y_i                          likewise
    subspace    Σ_j p_j²
    angle       degrees of (p_0, p_1), from -180 to 180

p are the rows' scores on a token. y = activation(p) where there is a hidden layer, and what mixes
it is here; without one the queries and values are rows themselves, queries first. docs/probes.md
says where the formulas are from.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

Kind = Literal["linear", "attention", "multimax", "subspace", "angle"]
Activation = Literal["relu", "silu", "gelu", "gelu_tanh"]
Over = Literal["phase", "request"]
"""Which tokens "so far" are: those of the phase run, which a new phase ends, or all."""

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Head:
    """One of them; part of a watchlist."""

    kind: Kind
    num_rows: int
    activation: Activation | None = None
    """Of the hidden layer, whose units the rows are; None: there is none."""
    mix: tuple[tuple[float, ...], ...] = ()
    """[outputs, rows], what is made of the hidden layer."""
    bias: float = 0.0
    over: Over = "phase"

    @property
    def digest(self) -> str:
        """Of all that decides what it makes of its rows."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()

    @property
    def num_outputs(self) -> int:
        return len(self.mix) if self.activation else self.num_rows

    @property
    def num_pooled(self) -> int:
        """How many sums over tokens its score is made of; 0: it looks at one token only."""
        return {"attention": self.num_outputs // 2, "multimax": self.num_outputs}.get(self.kind, 0)

    def outputs(self, rows: npt.NDArray[np.floating]) -> Numbers:
        """[tokens, rows] -> [tokens, outputs], which `kind` makes one score of."""
        p = rows.astype(np.float64)
        if self.activation is None:
            return p
        mixed: Numbers = ACTIVATIONS[self.activation](p) @ np.array(self.mix).T
        return mixed

    def token_scores(self, rows: npt.NDArray[np.floating]) -> Numbers:
        """Of a head that looks at one token only: [tokens, rows] -> [tokens]."""
        outputs, scores = self.outputs(rows), np.empty(0)
        match self.kind:
            case "subspace":
                scores = (outputs * outputs).sum(axis=1)
            case "angle":
                scores = np.degrees(np.arctan2(outputs[:, 1], outputs[:, 0]))
                scores[(outputs == 0).all(axis=1)] = np.nan  # the middle has no direction
            case _:
                scores = outputs[:, 0]
        return scores + self.bias


def row_name(feature: str, row: int) -> str:
    """Of the column that a head's row has; no feature of the rules can be called so."""
    return f"{feature}/{row}"


def row_names(heads: Mapping[str, Head]) -> list[str]:
    """Of all of their rows."""
    return [row_name(name, row) for name, head in heads.items() for row in range(head.num_rows)]


def _relu(x: Numbers) -> Numbers:
    return np.maximum(x, 0.0)


def _silu(x: Numbers) -> Numbers:
    return x * 0.5 * (1.0 + np.tanh(0.5 * x))


def _gelu(x: Numbers) -> Numbers:
    return x * 0.5 * (1.0 + _erf(x / math.sqrt(2.0)))


def _gelu_tanh(x: Numbers) -> Numbers:
    return x * 0.5 * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x * x * x)))


ACTIVATIONS: Mapping[Activation, Callable[[Numbers], Numbers]] = {
    "relu": _relu,
    "silu": _silu,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
}

_ERF = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)


def _erf(x: Numbers) -> Numbers:
    """Right to 1.5e-7: Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26."""
    t = 1.0 / (1.0 + 0.3275911 * np.abs(x))
    polynomial = t * np.polynomial.polynomial.polyval(t, _ERF)
    return np.asarray(np.sign(x) * (1.0 - polynomial * np.exp(-x * x)))
