"""How a feature's scores in one request compare with those in the others that were recorded.

Recorded are above all requests in which a rule matched or of which something was not seen: no
sample of the traffic, and not what a calibration looks at.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from saeguard.monitor.alerts import RequestRecord
from saeguard.monitor.store_file import reading

NUM_REQUESTS = 200
"""The newest are compared with."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Of a feature's largest score in some phase of a request."""

    peak: float
    num_others: int
    """Recorded requests in which the feature was seen in that phase."""
    num_lower: int
    """Those of them whose largest score is lower."""


class _Scores(msgspec.Struct, frozen=True):
    """The part of a record that is looked at; the rest is not even decoded."""

    req_id: str
    features: list[str]
    scores: bytes
    phases: bytes


_DECODER = msgspec.msgpack.Decoder(_Scores)


def recorded_peaks(path: Path, record: RequestRecord, phase: int) -> dict[str, Standing]:
    """Of each of the record's features that was observed in the phase.

    Args:
        path: of the alert store.
        phase: its index in `PHASES`.

    Raises:
        StoreError: the store cannot be read.
    """
    own = _peaks(record.features, record.scores, record.phases, phase)
    others: dict[str, list[float]] = {name: [] for name in own}
    for other in _newest(path):
        if other.req_id == record.req_id:
            continue
        for name, peak in _peaks(other.features, other.scores, other.phases, phase).items():
            if name in others:
                others[name].append(peak)
    return {
        name: Standing(peak, len(others[name]), sum(other < peak for other in others[name]))
        for name, peak in own.items()
    }


def _newest(path: Path) -> Iterator[_Scores]:
    query = "SELECT body FROM requests ORDER BY row DESC LIMIT ?"
    with reading(path) as db:
        for (body,) in db.execute(query, (NUM_REQUESTS,)):
            yield _DECODER.decode(body)


def _peaks(features: list[str], scores: bytes, phases: bytes, phase: int) -> dict[str, float]:
    rows = np.frombuffer(phases, np.uint8) == phase
    values = np.frombuffer(scores, np.float32).reshape(len(rows), len(features))[rows]
    peaks = np.fmax.reduce(values, axis=0, initial=-np.inf)
    return {
        name: float(peak) for name, peak in zip(features, peaks, strict=True) if np.isfinite(peak)
    }
