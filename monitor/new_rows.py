"""Makes of the rows of a step what rules see: each position of a request once, in order, none left
out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from saeguard.monitor.messages import FrameArrays
from saeguard.monitor.phases import Starts
from saeguard.monitor.requests import LiveRequest
from saeguard.monitor.rows import joined, taken

_MAX_PLACEHOLDERS = 1024  # no window of a rule is longer


def only_new(
    requests: Sequence[LiveRequest], starts: Starts, rows: FrameArrays
) -> tuple[list[LiveRequest], Starts, FrameArrays]:
    """The rows above each request's high-water mark, of the requests that have any.

    Before them comes what was not computed because it was in the prefix cache. Rows of NaN hold
    the place of what nobody knows, so that a window of the rules spans the tokens it says it spans.
    """
    kept, parts = [], []
    for i, request in enumerate(requests):
        part = taken(rows, slice(starts[i], starts[i + 1]))
        part = taken(part, slice(_num_known(request, part), None))
        if len(part.positions):
            kept.append(request)
            parts.append(_continued(request, part))
    if not kept:
        return [], starts[:1], taken(rows, slice(0))
    counts = [len(part.positions) for part in parts]
    return kept, np.cumsum([0, *counts]), joined(parts)


def _num_known(request: LiveRequest, rows: FrameArrays) -> int:
    """How many of the rows, which are of consecutive positions, were there before."""
    is_known = rows.positions < request.next_position
    if request.start.is_resumable:  # more input takes the place of what vLLM had read ahead
        before = request.table.token_ids(request.slot, rows.positions)
        is_known &= (before < 0) | (before == rows.token_ids)
    return len(is_known) if is_known.all() else int(is_known.argmin())


def _continued(request: LiveRequest, rows: FrameArrays) -> FrameArrays:
    """The rows, preceded by all that is between them and what was seen of the request before."""
    parts, position = [], min(request.next_position, int(rows.positions[0]))
    for part in (*request.recall(int(rows.positions[0])), rows):
        parts.append(_with_placeholders(part, position))
        position = int(part.positions[-1]) + 1
    return joined(parts)


def _with_placeholders(rows: FrameArrays, next_position: int) -> FrameArrays:
    """The rows, preceded by one of NaN for each position that was expected and did not come."""
    first, last = int(rows.positions[0]), int(rows.positions[-1])
    num_lost = min(first - next_position, _MAX_PLACEHOLDERS)
    if not num_lost:
        return rows
    return FrameArrays(
        scores=np.pad(rows.scores, ((num_lost, 0), (0, 0)), constant_values=np.nan),
        token_ids=np.pad(rows.token_ids, (num_lost, 0), constant_values=-1),
        positions=np.arange(first - num_lost, last + 1, dtype=np.int32),
    )
