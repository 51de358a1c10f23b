"""Directions as they are published: one vector, or one for each layer and position."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file

from saeguard.monitor.errors import CompileError

Arrays = Mapping[str, npt.NDArray[Any]]
SUFFIXES = (".pt", ".pth", ".npy", ".safetensors")

_ONLY = ""
"""What a tensor is called that has no name, because it is all of its file."""


@dataclass(frozen=True, slots=True)
class Place:
    """Which of the vectors of a file is meant."""

    key: str | None = None
    """Of the tensor, where there are several."""
    layer: int | None = None
    position: int | None = None
    """Both as the tensor's axes count them: [layers, d_model] or [positions, layers, d_model]."""


def read_direction(path: Path, place: Place = Place()) -> npt.NDArray[np.float64]:
    """One vector, [d_model].

    Raises:
        CompileError: the file cannot be read, or which vector is meant is not clear.
    """
    tensors = _read(path)
    found = _named(path, tensors, place.key).astype(np.float64)
    shape = "x".join(map(str, found.shape)) or "a number"
    if not 1 <= found.ndim <= 3:
        raise CompileError(
            f"{path}: the tensor is {shape}, and directions are [d_model], [layers, d_model] or "
            "[positions, layers, d_model]"
        )
    if found.ndim == 3:
        found = _at(path, found, "position", place.position, shape)
    elif place.position is not None:
        raise CompileError(f"{path}: --position has no meaning for a tensor of {shape}")
    if found.ndim == 2:
        found = _at(path, found, "layer", place.layer, shape)
    elif place.layer is not None:
        raise CompileError(f"{path}: --layer has no meaning for a tensor of {shape}")
    if not np.isfinite(found).all() or not found.any():
        raise CompileError(f"{path}: the direction is 0, or holds numbers that are not finite")
    return found


def _at(
    path: Path, tensor: npt.NDArray[np.float64], axis: str, index: int | None, shape: str
) -> npt.NDArray[np.float64]:
    """The part of a tensor at an index of its first axis, which may be left out of a single one."""
    size = len(tensor)
    if index is None and size == 1:
        index = 0
    if index is None:
        raise CompileError(f"{path}: the tensor is {shape}, with {size} {axis}s", f"give --{axis}")
    if not -size <= index < size:
        raise CompileError(
            f"{path}: --{axis} {index} is not among the {size} of a tensor of {shape}"
        )
    return np.asarray(tensor[index])


def _named(path: Path, tensors: Arrays, key: str | None) -> npt.NDArray[Any]:
    names = ", ".join(sorted(tensors)) or "none"
    if key is not None and key not in tensors:
        has = "leave --key out: its one tensor has no name" if _ONLY in tensors else f"has {names}"
        raise CompileError(f"{path}: has no tensor {key!r}", has)
    if key is None and len(tensors) != 1:
        raise CompileError(f"{path}: has {len(tensors)} tensors: {names}", "choose one with --key")
    return tensors[key] if key is not None else next(iter(tensors.values()))


def _read(path: Path) -> Arrays:
    if path.suffix not in SUFFIXES:
        raise CompileError(f"{path}: directions are read from {', '.join(SUFFIXES)} files")
    if not path.is_file():
        raise CompileError(f"{path}: no such file")
    try:
        match path.suffix:
            case ".npy":
                array = np.load(path, allow_pickle=False)
                if not isinstance(array, np.ndarray):  # an archive by another name
                    raise CompileError(f"{path}: cannot be read as tensors: it holds several")
                tensors: Arrays = {_ONLY: array}
            case ".safetensors":
                tensors = load_file(path)
            case _:
                tensors = _read_torch(path)
    except KeyError as error:  # bfloat16, and others that NumPy lacks
        raise CompileError(
            f"{path}: has tensors of the type {error}, which is not read", "save them as float32"
        ) from error
    except (SafetensorError, OSError, EOFError, ValueError, MemoryError, BadZipFile) as error:
        raise CompileError(f"{path}: cannot be read as tensors: {error}") from error
    for name, tensor in tensors.items():
        if not np.issubdtype(tensor.dtype, np.number) or np.iscomplexobj(tensor):
            raise CompileError(f"{path}: {name or 'the tensor'} holds {tensor.dtype}, not numbers")
    return tensors


def _read_torch(path: Path) -> Arrays:
    try:
        import torch
    except ImportError as error:
        raise CompileError(f"{path}: PyTorch is needed to read it", "pip install torch") from error
    try:
        # Nothing in the file is run: it may hold tensors and what holds tensors, and no code.
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever unpickling a damaged or hostile file may say
        reason = str(error).partition("\n")[0]
        raise CompileError(f"{path}: cannot be read as tensors: {reason}") from error
    if isinstance(content, torch.Tensor):
        content = {_ONLY: content}
    if not isinstance(content, dict):
        raise CompileError(
            f"{path}: holds a {type(content).__name__}, and neither a tensor nor a dict of tensors"
        )
    return {
        str(name): tensor.detach().to(torch.float64).numpy()
        for name, tensor in content.items()
        if isinstance(tensor, torch.Tensor)
    }
