"""Tensors in files, of which only what is asked for is read.

No file is loaded or mapped as a whole: an SAE can be larger than memory, and what is mapped counts
as used. PyTorch's own files are mapped by PyTorch.
"""

from __future__ import annotations

import json
import math
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt

from saeguard.monitor.errors import CompileError

Doubles = npt.NDArray[np.float64]

_BLOCK_NUMBERS = 2**23  # 32 MiB in fp32
_MAX_HEADER_BYTES = 100 * 2**20

# What Python and NumPy raise at files that are damaged, encrypted, or of another kind.
_UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)


class TensorFile(ABC):
    """Named tensors of a file. A number alone counts as a tensor of shape (1,)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.shapes: Mapping[str, tuple[int, ...]] = {}

    @abstractmethod
    def _read(self, name: str, start: int, stop: int) -> npt.NDArray[Any]:
        """Rows `start` to `stop` along the first axis."""

    def vector(self, name: str) -> Doubles:
        """All of a one-dimensional tensor."""
        (length,) = self._shape(name, 1)
        return self._read(name, 0, length).astype(np.float64)

    def rows(self, name: str, indices: Sequence[int]) -> Doubles:
        """Of a matrix, [indices, columns]."""
        self._shape(name, 2)
        parts = {i: self._read(name, i, i + 1)[0] for i in sorted(set(indices))}
        return np.array([parts[i] for i in indices], dtype=np.float64)

    def columns(self, name: str, indices: Sequence[int]) -> Doubles:
        """Of a matrix, [indices, rows]."""
        num_rows, _ = self._shape(name, 2)
        out = np.empty((len(indices), num_rows))
        for start, block in self.blocks(name):
            out[:, start : start + len(block)] = block[:, list(indices)].T
        return out

    def blocks(self, name: str) -> Iterator[tuple[int, npt.NDArray[Any]]]:
        """All rows of a matrix, some at a time, each time with the number of the first."""
        num_rows, num_columns = self._shape(name, 2)
        step = max(1, _BLOCK_NUMBERS // max(num_columns, 1))
        for start in range(0, num_rows, step):
            yield start, self._read(name, start, min(start + step, num_rows))

    def _shape(self, name: str, num_axes: int) -> tuple[int, ...]:
        if name not in self.shapes:
            raise CompileError(f"{self.path}: has no tensor {name!r}")
        shape = self.shapes[name]
        if len(shape) != num_axes:
            raise CompileError(f"{self.path}: {name} is of shape {shape}, not of {num_axes} axes")
        return shape


def open_tensors(path: Path) -> TensorFile:
    """Open a file of tensors by the end of its name: .safetensors, .npz, or PyTorch's .pt and .pth.

    Raises:
        CompileError: it is absent, or not what its name says.
    """
    if not path.is_file():
        raise CompileError(f"{path}: no such file")
    kinds: Mapping[str, Callable[[Path], TensorFile]] = {
        ".safetensors": Safetensors,
        ".npz": Npz,
        ".pt": Torch,
        ".pth": Torch,
    }
    kind = kinds.get(path.suffix)
    if kind is None:
        raise CompileError(f"{path}: tensors are read from {', '.join(kinds)} files")
    try:
        return kind(path)
    except _UNREADABLE as error:
        raise CompileError(f"{path}: not a {path.suffix} file of tensors: {error}") from error


class Safetensors(TensorFile):
    """Read by hand: the library maps the file, and its NumPy side has no bfloat16."""

    _DTYPES: Mapping[str, str] = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            size = path.stat().st_size
            if not 0 < length <= min(size - 8, _MAX_HEADER_BYTES):
                raise ValueError("its header is cut short")
            header: dict[str, Any] = json.loads(file.read(length))
        header.pop("__metadata__", None)
        self._tensors: dict[str, tuple[int, str]] = {}
        shapes = {}
        for name, entry in header.items():
            shape = tuple(entry["shape"]) or (1,)
            start, stop = (8 + length + offset for offset in entry["data_offsets"])
            if entry["dtype"] not in self._DTYPES:
                continue  # of integers or 8 bits: no weights of an encoder
            num_bytes = math.prod(shape) * np.dtype(self._DTYPES[entry["dtype"]]).itemsize
            if stop - start != num_bytes or not 8 + length <= start <= stop <= size:
                raise ValueError(f"{name} does not fit into it")
            shapes[name] = shape
            self._tensors[name] = (start, entry["dtype"])
        self.shapes = shapes

    def _read(self, name: str, start: int, stop: int) -> npt.NDArray[Any]:
        offset, kind = self._tensors[name]
        dtype = np.dtype(self._DTYPES[kind])
        row = math.prod(self.shapes[name][1:])
        place = offset + start * row * dtype.itemsize
        numbers = np.fromfile(self.path, dtype, (stop - start) * row, offset=place)
        if len(numbers) < (stop - start) * row:
            raise CompileError(f"{self.path}: was cut short while it was read")
        if kind == "BF16":  # the upper half of an fp32
            numbers = (numbers.astype("<u4") << 16).view("<f4")
        return numbers.reshape(-1, *self.shapes[name][1:])


class Npz(TensorFile):
    """Its members are streams, which may be compressed, so that they are read in their order."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._archive = zipfile.ZipFile(path)
        self._members = {
            name.removesuffix(".npy"): name
            for name in self._archive.namelist()
            if name.endswith(".npy")
        }
        self._open = cache(self._open_member)
        self.shapes = {name: self._open(name)[1] for name in self._members}

    def _open_member(self, name: str) -> tuple[BinaryIO, tuple[int, ...], np.dtype[Any], int]:
        stream = cast(BinaryIO, self._archive.open(self._members[name]))
        npy: Any = np.lib.format  # which has no types
        read_header = {
            (1, 0): npy.read_array_header_1_0,
            (2, 0): npy.read_array_header_2_0,
        }[npy.read_magic(stream)]
        shape, is_fortran, dtype = read_header(stream)
        if dtype.hasobject or (is_fortran and len(shape) > 1):
            raise ValueError(f"{name} is not stored row by row as numbers")
        return stream, shape or (1,), dtype, stream.tell()

    def _read(self, name: str, start: int, stop: int) -> npt.NDArray[Any]:
        stream, shape, dtype, offset = self._open(name)
        row = math.prod(shape[1:])
        stream.seek(offset + start * row * dtype.itemsize)
        wanted = (stop - start) * row * dtype.itemsize
        try:
            data = stream.read(wanted)
        except _UNREADABLE as error:
            raise CompileError(f"{self.path}: {name} cannot be read: {error}") from error
        if len(data) < wanted:
            raise CompileError(f"{self.path}: {name} is cut short")
        return np.frombuffer(data, dtype).reshape(-1, *shape[1:])


class Torch(TensorFile):
    """A state dict, unpickled with `weights_only`: nothing in the file is run."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            import torch
        except ImportError as error:
            raise CompileError(
                f"{path}: PyTorch's own files are read with PyTorch", "pip install torch"
            ) from error
        self._tensors = {
            name: tensor.detach().reshape(tensor.shape or (1,))
            for name, tensor in _load_state(path, torch).items()
            if isinstance(tensor, torch.Tensor)
        }
        self.shapes = {name: tuple(tensor.shape) for name, tensor in self._tensors.items()}

    def _read(self, name: str, start: int, stop: int) -> npt.NDArray[Any]:
        tensor = self._tensors[name][start:stop]
        numbers: npt.NDArray[Any] = tensor.double().numpy()
        return numbers


def _load_state(path: Path, torch: Any) -> Mapping[str, Any]:
    """Mapped into memory where the file is of the newer format."""
    try:
        try:
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # the older format cannot be mapped
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of a damaged file unpickling may raise anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CompileError(
            f"{path}: cannot be read as a file of nothing but tensors: {reason}",
            "save the state dict of the SAE, not the object",
        ) from error
    if not isinstance(state, Mapping):
        raise CompileError(f"{path}: holds no state dict but a {type(state).__name__}")
    return state
