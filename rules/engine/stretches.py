"""A call cut into stretches: parts of one request and one phase, which the state machines take."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from saeguard.rules.engine.aggregates import Indices
from saeguard.rules.engine.blocks import expand


@dataclass(frozen=True, slots=True)
class Stretches:
    """Parts of a call, each of one request and one phase."""

    slots: Indices
    begins: Indices  # rows
    lengths: Indices
    phases: Indices

    def take(self, chosen: npt.NDArray[np.generic]) -> Stretches:
        return Stretches(
            self.slots[chosen], self.begins[chosen], self.lengths[chosen], self.phases[chosen]
        )


def cut(slots: Indices, row_starts: Indices, phases: npt.NDArray[np.uint8]) -> Stretches:
    """Cut rows into stretches of one request and one phase."""
    if len(phases) == len(slots) and (row_starts[1:] > row_starts[:-1]).all():  # one row each
        rows = np.arange(len(slots))
        return Stretches(slots, rows, np.ones_like(rows), phases.astype(np.int64))
    begins_here = np.zeros(len(phases) + 1, np.bool_)
    begins_here[row_starts] = True  # the end of the last request among them
    begins_here[1:-1] |= phases[1:] != phases[:-1]
    bounds = begins_here.nonzero()[0]
    begins = bounds[:-1]
    if len(begins) == len(slots) and (begins == row_starts[:-1]).all():
        # No empty request, no change of phase.
        owners = np.arange(len(slots))
    else:
        owners = np.searchsorted(row_starts, begins, side="right") - 1
    return Stretches(slots[owners], begins, np.diff(bounds), phases[begins].astype(np.int64))


def turns(stretches: Stretches) -> Iterator[Stretches]:
    """Sets of stretches of different requests; those of one request stay in their order."""
    if np.bincount(stretches.slots).max(initial=0) == 1:
        yield stretches
        return
    while stretches.slots.size:
        _, firsts = np.unique(stretches.slots, return_index=True)
        if len(firsts) == len(stretches.slots):
            yield stretches
            return
        yield stretches.take(np.sort(firsts))
        stretches = stretches.take(np.delete(np.arange(len(stretches.slots)), firsts))


def rows_of(stretches: Stretches) -> Indices:
    owners, offsets = expand(stretches.lengths)
    return stretches.begins[owners] + offsets
