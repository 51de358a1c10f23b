"""Finds the prefix-cache blocks that the rows of a step complete, and has them kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from saeguard.monitor.messages import FrameArrays
from saeguard.monitor.phases import Starts
from saeguard.monitor.prefixes import Prefix, keep_next
from saeguard.monitor.requests import LiveRequest
from saeguard.monitor.rows import RowTable


class _Part(NamedTuple):
    """The rows of one request in the step."""

    prefix: Prefix
    slot: int
    start: int
    """Row of the first."""
    first: int
    """Position of the first."""
    end: int
    """Position behind the last."""

    @property
    def is_begun(self) -> bool:
        """Whether it completes a block of which earlier steps had the first rows."""
        return self.prefix.num_passed_tokens < self.first and self.prefix.boundary < self.end


def keep_blocks(
    requests: Sequence[LiveRequest], starts: Starts, rows: FrameArrays, table: RowTable
) -> None:
    """Keep what other requests may find in the prefix cache.

    Args:
        requests: of one step.
        starts: [requests + 1], where the rows of each begin.
        rows: of that step.
        table: has what was before them.
    """
    lasts = rows.positions[starts[1:] - 1].tolist()
    parts = []
    for i, (request, last) in enumerate(zip(requests, lasts, strict=True)):
        if last >= request.prefix.boundary:
            start = int(starts[i])
            first = int(rows.positions[start])
            request.prefix.pass_by(first)
            parts.append(_Part(request.prefix, request.slot, start, first, last + 1))
    if begun := [part for part in parts if part.is_begun]:
        _keep_begun(begun, rows, table)
    for part in parts:
        _keep_whole(part, rows)


def _keep_begun(parts: Sequence[_Part], rows: FrameArrays, table: RowTable) -> None:
    """The next block of each. While decoding that is all there is: it is done for all at once."""
    begins = np.array([part.prefix.num_passed_tokens for part in parts])
    positions = begins[:, None] + np.arange(parts[0].prefix.block_size)
    blocks, is_known = table.at(np.array([[part.slot] for part in parts]), positions)
    offsets = np.array([[part.start - part.first] for part in parts])
    is_new = positions >= np.array([[part.first] for part in parts])
    blocks[is_new] = rows.scores[(positions + offsets)[is_new]]
    keep_next([part.prefix for part in parts], blocks, is_known | is_new)


def _keep_whole(part: _Part, rows: FrameArrays) -> None:
    """The blocks of which this step has all rows."""
    num_blocks = part.prefix.num_complete(part.end)
    if num_blocks > 0:
        size = part.prefix.block_size
        start = part.start + part.prefix.num_passed_tokens - part.first
        blocks = rows.scores[start : start + num_blocks * size].reshape(num_blocks, size, -1)
        keep_next([part.prefix] * num_blocks, blocks, np.ones((num_blocks, size), np.bool_))
