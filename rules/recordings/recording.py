"""Files of recorded requests, in one of two formats.

* `.jsonl`: one request a line, for people and for fixtures; see `json_lines.py`.
* `.safetensors`: for many. Of request i the tensors `i.scores`, `i.positions`, `i.phases` and,
  where they were captured, `i.token_ids`; what else is known of it is JSON in the metadata.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from saeguard.rules.recordings import json_lines
from saeguard.rules.recordings.offline import RecordedRequest, RecordingError
from saeguard.rules.scope import RequestContext

SUFFIXES = (".jsonl", ".safetensors")

_KEY = "saeguard_recordings"
_TENSORS: dict[str, tuple[type[np.generic], int]] = {
    "scores": (np.float32, 2),
    "positions": (np.int32, 1),
    "phases": (np.uint8, 1),
    "token_ids": (np.int32, 1),
}


class _About(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What is known of a request besides its tensors."""

    context: json_lines.Context
    columns: tuple[str, ...]
    time_ns: int
    watchlist: str = ""


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    requests: list[_About]
    version: Literal[1] = 1


def read_recordings(path: Path) -> list[RecordedRequest]:
    """The requests of a file, in its order.

    Raises:
        RecordingError: the file cannot be read, is not a recording or has no request in it; says
            what is wrong where.
    """
    read = json_lines.read if _is_text(path) else _read_safetensors
    try:
        requests = list(read(path))
    except OSError as error:
        raise RecordingError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not requests:  # rules that raise nothing on nothing are not thereby quiet
        raise RecordingError(f"{path}: holds no requests")
    return requests


def recorded_columns(path: Path) -> dict[str, tuple[str, ...]]:
    """Ids of the requests of a `.safetensors` file, with what was recorded of them; its scores are
    not read.

    Raises:
        RecordingError: as `read_recordings`.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            size = path.stat().st_size
            header = file.read(min(length, size))
        tensors = msgspec.json.decode(header)
        ends = [t["data_offsets"][1] for name, t in tensors.items() if name != "__metadata__"]
        if 8 + length + max(ends, default=0) != size:
            raise RecordingError(f"{path}: cannot be read as a recording: it was cut short")
        abouts = msgspec.json.decode(tensors["__metadata__"][_KEY], type=_Header).requests
    except OSError as error:
        raise RecordingError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, msgspec.MsgspecError, LookupError, TypeError, AttributeError) as error:
        raise RecordingError(f"{path}: cannot be read as a recording: {error}") from error
    return {about.context.id: about.columns for about in abouts}


def write_recordings(path: Path, requests: Sequence[RecordedRequest]) -> None:
    """Write a file in one move, so that a reader never meets half of it.

    Raises:
        RecordingError: the file cannot be written.
    """
    encode = json_lines.encode if _is_text(path) else _encode_safetensors
    temporary = path.with_name(path.name + ".partial")
    try:
        temporary.write_bytes(encode(requests))
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise RecordingError(f"{path}: cannot be written: {error.strerror or error}") from error


def _is_text(path: Path) -> bool:
    if path.suffix not in SUFFIXES:
        raise RecordingError(f"{path}: the name of a recording ends in {' or '.join(SUFFIXES)}")
    return path.suffix == ".jsonl"


def _encode_safetensors(requests: Sequence[RecordedRequest]) -> bytes:
    tensors = {}
    for i, request in enumerate(requests):
        tensors[f"{i}.scores"] = np.ascontiguousarray(request.scores, np.float32)
        tensors[f"{i}.positions"] = np.ascontiguousarray(request.positions, np.int32)
        tensors[f"{i}.phases"] = np.ascontiguousarray(request.phases, np.uint8)
        if request.token_ids is not None:
            tensors[f"{i}.token_ids"] = np.ascontiguousarray(request.token_ids, np.int32)
    header = msgspec.json.encode(_Header([_about(request) for request in requests]))
    return save(tensors, metadata={_KEY: header.decode()})


def _about(request: RecordedRequest) -> _About:
    context = json_lines.Context(**asdict(request.context))
    return _About(context, request.columns, request.time_ns, request.watchlist)


def _read_safetensors(path: Path) -> Iterator[RecordedRequest]:
    # Not mapped into memory: were the file cut short by somebody meanwhile, that would end us.
    data = path.read_bytes()
    try:
        tensors = load(data)
        header = _metadata(data).get(_KEY)
        if header is None:
            raise RecordingError(f"{path}: holds no recorded requests")
        abouts = msgspec.json.decode(header, type=_Header).requests
    except (SafetensorError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise RecordingError(f"{path}: cannot be read as a recording: {error}") from error
    for i, about in enumerate(abouts):
        yield _request(f"{path}, request {i + 1}", about, _tensors_of(path, i, tensors))


def _metadata(data: bytes) -> dict[str, str]:
    end = 8 + int.from_bytes(data[:8], "little")
    return msgspec.json.decode(data[8:end]).get("__metadata__") or {}


def _tensors_of(path: Path, i: int, tensors: dict[str, Any]) -> dict[str, Any]:
    """Of one request, by name and in the types that they are used in."""
    found = {}
    for name, (kind, num_axes) in _TENSORS.items():
        tensor = tensors.get(f"{i}.{name}")
        if tensor is None and name == "token_ids":
            continue
        if tensor is None or tensor.dtype != kind or tensor.ndim != num_axes:
            raise RecordingError(f"{path}, request {i + 1}: the tensor of its {name} is damaged")
        found[name] = tensor
    return found


def _request(source: str, about: _About, tensors: dict[str, Any]) -> RecordedRequest:
    context = RequestContext(**msgspec.structs.asdict(about.context))
    return RecordedRequest(
        context,
        about.columns,
        time_ns=about.time_ns,
        watchlist=about.watchlist,
        source=source,
        **tensors,
    )
