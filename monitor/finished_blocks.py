"""Finds the prefix-cache blocks that the rows of a step complete, and has them kept."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from saeguard.monitor.messages import FrameArrays
from saeguard.monitor.prefixes import keep_next
from saeguard.monitor.requests import LiveRequest
from saeguard.monitor.rows import RowTable

Places = npt.NDArray[np.intp]


def keep_blocks(
    requests: Sequence[LiveRequest],
    row_starts: Places,
    lasts: Sequence[int],
    rows: FrameArrays,
    table: RowTable,
) -> None:
    """Keep what other requests may find in the prefix cache.

    Args:
        requests: those of a step that have a row at the `boundary` of their prefix.
        row_starts: where the rows of each begin.
        lasts: the last position of each.
        rows: of that step.
        table: has what was before them.
    """
    firsts = rows.positions[row_starts]
    for request, first in zip(requests, firsts.tolist(), strict=True):
        request.prefix.pass_by(first)
    begins = np.array([request.prefix.num_passed_tokens for request in requests])
    boundaries = np.array([request.prefix.boundary for request in requests])
    if len(begun := np.flatnonzero((begins < firsts) & (boundaries <= lasts))):
        _keep_begun([requests[i] for i in begun], begins[begun], row_starts[begun], rows, table)
    for request, start, first, last in zip(
        requests, row_starts.tolist(), firsts.tolist(), lasts, strict=True
    ):
        prefix = request.prefix
        num_blocks = prefix.num_complete(last + 1)
        if num_blocks > 0:  # of which this step has all rows
            begin = start + prefix.num_passed_tokens - first
            scores = rows.scores[begin : begin + num_blocks * prefix.block_size]
            blocks = scores.reshape(num_blocks, prefix.block_size, -1)
            keep_next([prefix] * num_blocks, blocks, np.ones(blocks.shape[:2], np.bool_))


def _keep_begun(
    requests: Sequence[LiveRequest],
    begins: Places,
    row_starts: Places,
    rows: FrameArrays,
    table: RowTable,
) -> None:
    """One block of each request, at position `begins`, of which an earlier step had the first
    rows. While decoding that is all there is, so it is done for all requests at once.
    """
    slots = np.array([request.slot for request in requests])
    positions = begins[:, None] + np.arange(requests[0].prefix.block_size)
    blocks, is_known = table.at(slots[:, None], positions)
    places = positions - rows.positions[row_starts, None] + row_starts[:, None]
    is_new = places >= row_starts[:, None]
    blocks[is_new] = rows.scores[places[is_new]]
    keep_next([request.prefix for request in requests], blocks, is_known | is_new)
