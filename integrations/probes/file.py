"""Files of probes: safetensors with a JSON header `saeguard_probe`, as docs/probes.md has it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from saeguard.monitor.errors import CompileError, UnsupportedError
from saeguard.monitor.heads import Activation, Over
from saeguard.monitor.sites import HookPoint

HEADER = "saeguard_probe"

Floats = npt.NDArray[np.floating]


class Linear(
    msgspec.Struct, frozen=True, tag_field="kind", tag="linear", forbid_unknown_fields=True
):
    """bias + weight · x; tensors weight [d_model] or [1, d_model] and, where it has one, bias."""


class Mlp(msgspec.Struct, frozen=True, tag_field="kind", tag="mlp", forbid_unknown_fields=True):
    """The same of a hidden layer, with tensors hidden_weight [hidden, d_model], hidden_bias
    [hidden].
    """

    activation: Activation


class Attention(
    msgspec.Struct, frozen=True, tag_field="kind", tag="attention", forbid_unknown_fields=True
):
    """Tensors query and value [heads, d_model], bias; with an activation also of a hidden layer."""

    over: Over = "phase"
    activation: Activation | None = None


class MultiMax(
    msgspec.Struct, frozen=True, tag_field="kind", tag="multimax", forbid_unknown_fields=True
):
    """Tensors value [heads, d_model], bias; with an activation also of a hidden layer."""

    over: Over = "phase"
    activation: Activation | None = None


class Subspace(
    msgspec.Struct, frozen=True, tag_field="kind", tag="subspace", forbid_unknown_fields=True
):
    """|weight · x + bias|²; tensors weight [rank, d_model] and, where it has one, bias [rank]."""

    normalised: bool = False
    """By |x|², which makes it 0 to 1."""


class Angle(msgspec.Struct, frozen=True, tag_field="kind", tag="angle", forbid_unknown_fields=True):
    """Of the two rows of weight [2, d_model], in degrees; bias [2], where it has one."""


Kind = Linear | Mlp | Attention | MultiMax | Subspace | Angle


class _Header(msgspec.Struct):
    """What else is in it is for people."""

    hook_point: str = ""
    hook_name: str = ""
    names: list[str] = []
    """Of the linear probes that are the rows of the tensors `weight` and `bias`."""
    probes: dict[str, Kind] = {}
    """Whose tensors are called `NAME.weight` and so on."""


@dataclass(frozen=True, slots=True)
class Probe:
    """One probe of a file."""

    kind: Kind
    tensors: Mapping[str, Floats] = field(repr=False)
    index: int = 0
    """In its file."""


@dataclass(frozen=True, slots=True)
class ProbeFile:
    """All of a file; its probes by name."""

    hook_point: HookPoint
    probes: Mapping[str, Probe]


def read_probe_file(path: Path) -> ProbeFile:
    """
    Raises:
        CompileError: it is no such file; what is wrong in it.
    """
    try:
        data = path.read_bytes()
        tensors = load(data)
    except OSError as error:
        raise CompileError(f"{path}: cannot be read: {error.strerror or error}") from error
    except SafetensorError as error:
        raise CompileError(f"{path}: not a probe file: {error}") from error
    except KeyError as error:  # bfloat16, and others that NumPy lacks
        raise CompileError(
            f"{path}: has tensors of the type {error}, which is not read", "save them as float32"
        ) from error
    text = _metadata(data).get(HEADER)
    if text is None:
        raise CompileError(
            f"{path}: not a probe file: its metadata has no {HEADER}", "see docs/probes.md"
        )
    try:
        header = msgspec.json.decode(text, type=_Header)
        hook_point = HookPoint.parse(header.hook_point or header.hook_name)
    except msgspec.MsgspecError as error:
        raise CompileError(f"{path}: its header {HEADER} is wrong: {error}") from error
    except UnsupportedError as error:
        raise CompileError(f"{path}: {error.message}", error.remedy) from error
    return ProbeFile(hook_point, _probes(path, header, tensors))


def write_probe_file(
    path: Path,
    hook_point: HookPoint | str,
    probes: Mapping[str, Probe],
    about: Mapping[str, Any] | None = None,
) -> None:
    """Write a file in one move.

    Args:
        about: more for the header, for people: where the probes come from.

    Raises:
        CompileError: the file cannot be written.
    """
    tensors = {
        f"{name}.{part}": np.ascontiguousarray(tensor, np.float32)
        for name, probe in probes.items()
        for part, tensor in probe.tensors.items()
    }
    header = {
        **(about or {}),
        "hook_point": str(hook_point),
        "probes": {name: msgspec.to_builtins(probe.kind) for name, probe in probes.items()},
    }
    temporary = path.with_name(path.name + ".partial")
    try:
        temporary.write_bytes(save(tensors, metadata={HEADER: json.dumps(header)}))
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise CompileError(f"{path}: cannot be written: {error.strerror or error}") from error


def _metadata(data: bytes) -> dict[str, str]:
    end = 8 + int.from_bytes(data[:8], "little")
    found: dict[str, str] = json.loads(data[8:end]).get("__metadata__") or {}
    return found


def _probes(path: Path, header: _Header, tensors: Mapping[str, Floats]) -> dict[str, Probe]:
    probes = {}
    if header.names:
        weight, bias = (tensors.get(part) for part in ("weight", "bias"))
        num_names = len(header.names)
        if weight is None or bias is None or weight.ndim != 2 or bias.ndim != 1:
            raise CompileError(f"{path}: lacks the tensors weight [probes, d_model], bias [probes]")
        if not len(weight) == len(bias) == num_names:
            raise CompileError(
                f"{path}: has {num_names} names for {len(weight)} rows and {len(bias)} biases"
            )
        for i, name in enumerate(header.names):
            probes[name] = Probe(Linear(), {"weight": weight[i], "bias": bias[i]}, i)
    for i, (name, kind) in enumerate(header.probes.items(), start=len(probes)):
        if name in probes:
            raise CompileError(f"{path}: has two probes {name!r}")
        prefix = f"{name}."
        parts = {
            key.removeprefix(prefix): tensor
            for key, tensor in tensors.items()
            if key.startswith(prefix)
        }
        probes[name] = Probe(kind, parts, i)
    return probes
