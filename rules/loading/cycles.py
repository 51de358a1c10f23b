"""Names that lead back to themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter

_MAX_CYCLES = 20  # reported at once


def find_cycles(named_by: Mapping[str, Sequence[str]]) -> Iterator[list[str]]:
    """Cycles such as `[a, b, a]`, beginning with the name that comes first in `named_by`.

    Each cycle's first step is left out of the search for the next one.

    Args:
        named_by: each name with the names that it mentions.
    """
    graph = {name: dict.fromkeys(named) for name, named in named_by.items()}
    order = {name: index for index, name in enumerate(graph)}
    for _ in range(_MAX_CYCLES):
        try:
            TopologicalSorter(graph).prepare()
            return
        except CycleError as error:
            ring = error.args[1][:0:-1]  # each named by the next one, and the first one twice
        start = ring.index(min(ring, key=lambda name: order[name]))
        cycle = [*ring[start:], *ring[:start], ring[start]]
        yield cycle
        del graph[cycle[0]][cycle[1]]
