"""Recorded requests as text, one JSON object a line; short where there is little to say.

    {"context": {"id": "r1", "model": "org/model", "tenant": "blue"},
     "time": "2026-11-21T09:00:00Z",
     "phases": "prompt:2 answer:3",
     "features": {"lie": [0, null, 4.5, 4, 0], "claim": [0, 0, 0.5, 7, 1]}}

`null` is a score that was not observed. `phases` may be a list of one name for each token, too.
`positions` are 0, 1, 2, … unless given; `token_ids` may be given, and `watchlist`, the digest of
that whose rows made the scores; a request without a time is at the beginning of 1970.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from saeguard.rules.phases import Phase
from saeguard.rules.recordings.offline import RecordedRequest, RecordingError
from saeguard.rules.scope import RequestContext

_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?Z")
_RUN = re.compile(r"([a-z_]+):(\d{1,9})")
_MAX_TOKENS = 10_000_000  # no request has more, and a few characters must not ask for them


class Context(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A `RequestContext` in a file."""

    model: str = ""
    lora: str | None = None
    tenant: str | None = None
    client: str | None = None
    id: str = ""


class _Line(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True
):
    context: Context = Context()
    time: str | None = None
    positions: list[int] | None = None
    phases: str | list[str]
    features: dict[str, list[float | None]]
    token_ids: list[int] | None = None
    watchlist: str = ""


_DECODER = msgspec.json.Decoder(_Line)


def read(path: Path) -> Iterator[RecordedRequest]:
    """The requests of a file.

    Raises:
        RecordingError: a line is wrong; says which and why.
        OSError: the file cannot be read.
    """
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        source = f"{path}:{number}"
        try:
            decoded = _DECODER.decode(line)
            json.loads(line, object_pairs_hook=_refuse_twins)
            yield _request(source, decoded)
        except RecordingError:
            raise
        except (msgspec.MsgspecError, ValueError, OverflowError) as error:
            raise RecordingError(f"{source}: {error}") from error


def _refuse_twins(pairs: list[tuple[str, object]]) -> None:
    """Of a key given twice msgspec takes the last value, and says nothing."""
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            raise ValueError(f"the key '{key}' is given twice")
        seen.add(key)


def encode(requests: Sequence[RecordedRequest]) -> bytes:
    """The contents of a file."""
    return b"".join(msgspec.json.encode(_line(request)) + b"\n" for request in requests)


def _request(source: str, line: _Line) -> RecordedRequest:
    phases = _phases(line.phases)
    scores = np.empty((len(phases), len(line.features)), np.float32)
    for column, (name, values) in enumerate(line.features.items()):
        if len(values) != len(phases):
            raise ValueError(f"'{name}' has {len(values)} scores for {len(phases)} tokens")
        with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused
            scores[:, column] = [np.nan if value is None else value for value in values]
    return RecordedRequest(
        context=RequestContext(**msgspec.structs.asdict(line.context)),
        columns=tuple(line.features),
        scores=scores,
        positions=np.array(range(len(phases)) if line.positions is None else line.positions, "i4"),
        phases=phases,
        token_ids=None if line.token_ids is None else np.array(line.token_ids, np.int32),
        time_ns=0 if line.time is None else _parse_time(line.time),
        watchlist=line.watchlist,
        source=source,
    )


def _line(request: RecordedRequest) -> _Line:
    positions = request.positions.tolist()
    return _Line(
        context=Context(**asdict(request.context)),
        time=_format_time(request.time_ns) if request.time_ns else None,
        phases=" ".join(f"{Phase(code)}:{len([*run])}" for code, run in groupby(request.phases)),
        features={
            name: [_short(score) for score in scores]
            for name, scores in zip(request.columns, request.scores.T, strict=True)
        },
        positions=None if positions == list(range(len(positions))) else positions,
        token_ids=None if request.token_ids is None else request.token_ids.tolist(),
        watchlist=request.watchlist,
    )


def _short(score: np.float32) -> float | None:
    """The number of fewest digits that is read as the same float32."""
    return None if np.isnan(score) else float(str(score))


def _phases(written: str | list[str]) -> npt.NDArray[np.uint8]:
    """From `prompt:2 answer:3`, or a name for each token."""
    if isinstance(written, list):
        return np.array([Phase.parse(name) for name in written], np.uint8)
    runs = [_phase_run(run) for run in written.split()]
    if sum(length for _, length in runs) > _MAX_TOKENS:
        raise ValueError(f"more than {_MAX_TOKENS:,} tokens")
    return np.array([phase for phase, length in runs for _ in range(length)], np.uint8)


def _phase_run(written: str) -> tuple[Phase, int]:
    parts = _RUN.fullmatch(written)
    if parts is None:
        raise ValueError(f"phases are written like 'prompt:2 answer:3', not {written!r}")
    return Phase.parse(parts[1]), int(parts[2])


def _parse_time(text: str) -> int:
    parts = _TIME.fullmatch(text)
    if parts is None:
        raise ValueError(f"a time is written like 2026-11-21T09:00:00.5Z, not {text!r}")
    seconds = datetime.fromisoformat(f"{parts[1]}+00:00").timestamp()
    return int(seconds) * 10**9 + int((parts[2] or "").ljust(9, "0"))


def _format_time(time_ns: int) -> str:
    seconds, rest_ns = divmod(time_ns, 10**9)
    fraction = f".{rest_ns:09d}".rstrip("0") if rest_ns else ""
    return f"{datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None).isoformat()}{fraction}Z"
