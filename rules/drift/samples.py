"""Requests of both sides, and what of them counts as one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from saeguard.rules.recordings.offline import RecordedRequest

Flags = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Sample:
    """Requests of one side."""

    requests: Sequence[RecordedRequest]
    groups: Sequence[str]
    """What each request belongs to: requests of one group are alike, and count as one."""
    strata: Sequence[str]
    """What each request is of (its source, its label); only those of one stratum are compared."""

    @classmethod
    def plain(cls, requests: Sequence[RecordedRequest]) -> Sample:
        """Requests of which nothing else is known. One that is on both sides is known by its id."""
        names = [request.context.id or f"#{i}" for i, request in enumerate(requests)]
        return cls(requests, names, [""] * len(requests))


@dataclass(frozen=True, slots=True, eq=False)
class Units:
    """What changes sides when chance is tried: a group of one stratum on one side. [units] each."""

    is_recent: Flags
    stratum: Indices
    partner: Indices
    """The unit of the same group on the other side, -1 where there is none."""

    def __len__(self) -> int:
        return len(self.is_recent)

    @property
    def num_pairs(self) -> int:
        return int((self.partner >= 0).sum()) // 2

    def num_on(self, recent: bool) -> int:
        return int((self.is_recent == recent).sum())


@dataclass(frozen=True, slots=True)
class Assigned:
    """Units, and the requests of each."""

    units: Units
    requests: tuple[tuple[RecordedRequest, ...], ...]
    left_out: dict[str, int]
    """Stratum -> requests that are not compared, for it is on one side only."""


def assign(reference: Sample | None, recent: Sample) -> Assigned:
    """The units of both sides; of one, where of the other only statistics are known."""
    members: dict[tuple[str, str, bool], list[RecordedRequest]] = defaultdict(list)
    for sample, is_recent in ((reference, False), (recent, True)):
        if sample is not None:
            for request, group, stratum in zip(
                sample.requests, sample.groups, sample.strata, strict=True
            ):
                members[stratum, group, is_recent].append(request)
    sides = {(stratum, is_recent) for stratum, _, is_recent in members}
    left_out: dict[str, int] = defaultdict(int)
    if reference is not None:
        for key in list(members):
            if (key[0], not key[2]) not in sides:
                left_out[key[0]] += len(members.pop(key))
    keys = sorted(members)
    numbers = {key: i for i, key in enumerate(keys)}
    strata = {stratum: i for i, stratum in enumerate(sorted({key[0] for key in keys}))}
    units = Units(
        is_recent=np.array([key[2] for key in keys], bool),
        stratum=np.array([strata[key[0]] for key in keys], np.intp),
        partner=np.array([numbers.get((s, g, not r), -1) for s, g, r in keys], np.intp),
    )
    return Assigned(units, tuple(tuple(members[key]) for key in keys), dict(left_out))
