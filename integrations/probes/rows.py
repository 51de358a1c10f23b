"""From the probes of a file to rows of their site, and what is left to make of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from saeguard.integrations.probes.file import (
    Angle,
    Attention,
    Linear,
    Mlp,
    MultiMax,
    Probe,
    Subspace,
    read_probe_file,
)
from saeguard.monitor.compile import FeatureRow
from saeguard.monitor.errors import CompileError
from saeguard.monitor.heads import Head
from saeguard.monitor.sites import HookPoint
from saeguard.monitor.watchlist import Norm
from saeguard.rules import Feature, ProbeFeature

Numbers = npt.NDArray[np.float64]

MAX_ROWS = 1024
"""Of one probe."""
_ORTHONORMAL = 1e-3
"""How far the products of the rows may be from those of an orthonormal basis."""


def read_features(features: Sequence[Feature], sample: Path | None = None) -> list[FeatureRow]:
    """The rows of the given features, all of one probe file, in the order given.

    Raises:
        CompileError: the file, its hook point or a probe of it cannot be used.
    """
    source = features[0].source
    assert isinstance(source, ProbeFeature)
    path = source.path
    if not path.is_file():
        raise CompileError(
            f"{path}: no such probe file", "probe.path is relative to the rules file"
        )
    file = read_probe_file(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    rows = []
    for feature in features:
        name = getattr(feature.source, "name", "")
        probe = file.probes.get(name)
        if probe is None:
            raise CompileError(
                f"feature {feature.name!r}: {path} has no probe {name!r}",
                f"it has {', '.join(file.probes)}",
            )
        rows.append(feature_row(probe, file.hook_point, f"{path}: probe {name!r}", digest))
    return rows


def feature_row(
    probe: Probe, hook_point: HookPoint, place: str = "a probe", digest: str = ""
) -> FeatureRow:
    """What a watchlist has of a probe.

    Args:
        place: where the probe is from, for error messages.
        digest: of its file.

    Raises:
        CompileError: its tensors are not those of its kind.
    """
    parts = _Parts(place, probe.tensors)
    weight, bias, head = _made(parts, probe)
    parts.end()
    if len(weight) > MAX_ROWS:
        raise parts.fault(
            f"it has {len(weight)} rows, and each is a score per token: at most {MAX_ROWS}"
        )
    if head is None and len(weight) != 1:
        raise parts.fault(f"weight has {len(weight)} rows, and a linear probe is one")
    norm: Norm = "none"
    if isinstance(probe.kind, Subspace) and probe.kind.normalised:
        norm = "constant_norm_rescale"  # times sqrt(d_model) / |x|
        weight = weight / np.sqrt(weight.shape[1])
    rows = tuple(
        FeatureRow(hook_point, row, float(shift), -np.inf, digest, probe.index, norm)
        for row, shift in zip(weight, bias, strict=True)
    )
    if head is None:
        return rows[0]
    return FeatureRow(
        hook_point, 0.0 * rows[0].weight, 0.0, -np.inf, digest, probe.index, head=head, rows=rows
    )


def _made(parts: _Parts, probe: Probe) -> tuple[Numbers, Numbers, Head | None]:
    """Of a probe the rows [rows, d_model], their biases, and what is made of them."""
    match probe.kind:
        case Linear():
            weight = parts.matrix("weight")
            return weight, parts.bias("bias", len(weight)), None
        case Mlp(activation):
            return _mixed(parts, ("weight",), Head("linear", 1, activation))
        case Attention(over, activation):
            head = Head("attention", 0, activation, over=over)
            return _mixed(parts, ("query", "value"), head)
        case MultiMax(over, activation):
            return _mixed(parts, ("value",), Head("multimax", 0, activation, over=over))
        case Subspace(normalised):
            return _subspace(parts, normalised)
        case Angle():
            weight = parts.matrix("weight")
            if len(weight) != 2:
                raise parts.fault(f"weight has {len(weight)} rows, and a plane has two")
            return weight, parts.bias("bias", 2), Head("angle", 2)


def _mixed(parts: _Parts, names: Sequence[str], head: Head) -> tuple[Numbers, Numbers, Head]:
    """What reads the input, or a hidden layer of it, by matrices of these names."""
    width = hidden = None
    if head.activation is not None:
        hidden = parts.matrix("hidden_weight")
        width = len(hidden)
    matrices = [parts.matrix(name, width) for name in names]
    if len({matrix.shape for matrix in matrices}) > 1:
        shapes = " and ".join(_shape(matrix) for matrix in matrices)
        raise parts.fault(f"{' and '.join(names)} differ in shape: {shapes}")
    if head.kind == "linear" and len(matrices[0]) != 1:
        raise parts.fault(f"weight has {len(matrices[0])} rows, and one output is one row")
    mix = np.concatenate(matrices)
    head = replace(head, bias=float(parts.bias("bias", 1)[0]))
    if hidden is None:
        return mix, np.zeros(len(mix)), replace(head, num_rows=len(mix))
    rows_of_mix = tuple(tuple(row) for row in mix.tolist())
    shift = parts.bias("hidden_bias", len(hidden))
    return hidden, shift, replace(head, num_rows=len(hidden), mix=rows_of_mix)


def _subspace(parts: _Parts, normalised: bool) -> tuple[Numbers, Numbers, Head]:
    weight = parts.matrix("weight")
    if normalised:
        if parts.has("bias"):
            raise parts.fault("a normalised subspace goes through 0, so that it has no bias")
        if np.abs(weight @ weight.T - np.eye(len(weight))).max() > _ORTHONORMAL:
            raise CompileError(
                f"{parts.place}: the rows of weight are no orthonormal basis, so that their energy "
                "is no part of |x|²",
                "orthonormalise them: numpy.linalg.qr(weight.T)[0].T",
            )
    return weight, parts.bias("bias", len(weight)), Head("subspace", len(weight))


class _Parts:
    """The tensors of a probe, each to be taken once, with every fault of them located."""

    def __init__(self, place: str, tensors: Mapping[str, npt.NDArray[np.floating]]) -> None:
        self.place = place
        self._left = dict(tensors)

    def matrix(self, name: str, num_inputs: int | None = None) -> Numbers:
        """[rows, inputs]; one row may be written without its axis."""
        found = self._take(name)
        if found is None:
            raise CompileError(f"{self.place}: lacks the tensor {name}", "see docs/probes.md")
        if found.ndim not in (1, 2) or not found.size:
            raise self.fault(f"{name} has the shape {_shape(found)}, not [rows, inputs]")
        matrix = np.atleast_2d(found)
        if num_inputs is not None and matrix.shape[1] != num_inputs:
            raise self.fault(f"{name} has {matrix.shape[1]} inputs, and not {num_inputs}")
        return matrix

    def bias(self, name: str, size: int) -> Numbers:
        """[size]; zeros where there is none."""
        found = self._take(name)
        if found is None:
            return np.zeros(size)
        if found.size != size or found.ndim > 1:
            raise self.fault(f"{name} has the shape {_shape(found)}, not [{size}]")
        return found.reshape(size)

    def has(self, name: str) -> bool:
        return name in self._left

    def end(self) -> None:
        """
        Raises:
            CompileError: something is left that nothing was made of.
        """
        if self._left:
            raise self.fault(f"a probe of its kind has no tensor {', '.join(sorted(self._left))}")

    def fault(self, what: str) -> CompileError:
        return CompileError(f"{self.place}: {what}")

    def _take(self, name: str) -> Numbers | None:
        found = self._left.pop(name, None)
        if found is None:
            return None
        if not np.issubdtype(found.dtype, np.floating):
            raise self.fault(f"{name} holds {found.dtype}, not floating-point numbers")
        numbers = found.astype(np.float64)
        if not np.isfinite(numbers).all():
            raise self.fault(f"{name} holds numbers that are not finite")
        return numbers


def _shape(array: npt.NDArray[np.generic]) -> str:
    return f"[{', '.join(map(str, array.shape))}]"
