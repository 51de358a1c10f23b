"""Brings live requests under other rules: what is kept of them is played to the new engine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from saeguard.monitor.columns import Order, arranged
from saeguard.monitor.requests import LiveRequest
from saeguard.rules import Engine

_ROWS_AT_ONCE = 65_536
"""Enough for the engine to take many requests together, few enough to be held twice."""


def carry_over(requests: Iterable[LiveRequest], engine: Engine, order: Order | None) -> None:
    """Start requests in an engine as if it had seen the rows that are kept of them.

    What matches on those rows is no news. Afterwards each rule counts as having matched as often
    as the rule of the same id did before, under the rules until now.

    Args:
        requests: those that the engine until now has room for.
        engine: one that knows none of them.
        order: where each of its columns is in the kept rows; None: in the same place.
    """
    for group in _groups(requests):
        kept = [request.table.kept(request.slot) for request in group]
        keys = [request.start.req_id for request in group]
        for request in group:
            engine.start(request.start.req_id, request.context)
        scores = np.concatenate([rows.scores for rows, _ in kept])
        engine.observe(
            keys,
            np.cumsum([0, *(len(rows.positions) for rows, _ in kept)]),
            scores if order is None else arranged(scores, order),
            np.concatenate([rows.positions for rows, _ in kept]),
            np.concatenate([phases for _, phases in kept]),
        )
        for request in group:
            engine.resume(request.start.req_id, request.matches_by_id())


def _groups(requests: Iterable[LiveRequest]) -> Iterator[list[LiveRequest]]:
    """Requests whose kept rows are together not too many."""
    group: list[LiveRequest] = []
    for request in requests:
        group.append(request)
        if len(group) * request.table.num_kept >= _ROWS_AT_ONCE:
            yield group
            group = []
    if group:
        yield group
