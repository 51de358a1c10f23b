"""Holds back the rows of speculated tokens until it is known whether the model kept them.

A step's last rows of a request may read tokens that a drafter proposed. Those that the model
rejects are overwritten: the request's next step begins at the first of them, or after all of them.
So a draft is settled by the first position of the next rows, and no window, average, sequence or
alert ever holds anything of a token that was taken back. Where a frame was lost in between nothing
is known of the drafts before it, and they count as lost, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from saeguard.monitor.messages import Frame, FrameArrays
from saeguard.monitor.phases import Starts
from saeguard.monitor.requests import Held, LiveRequest
from saeguard.monitor.rows import joined, taken


def settle(
    frame: Frame, requests: Sequence[LiveRequest], starts: Starts, rows: FrameArrays
) -> tuple[Starts, FrameArrays]:
    """The rows with the drafts that they confirm, and without those that they bring.

    Args:
        frame: where the rows are from; it says how many of them are drafts.
        requests: whose rows they are; every one has at least one that is not a draft.
        starts: [requests + 1], where those of each begin.
        rows: the rows.
    """
    num_drafts: Mapping[str, int] = dict(zip(frame.req_ids, frame.num_drafts, strict=False))
    parts: list[FrameArrays] = []
    for request, begin, end in zip(requests, starts[:-1], starts[1:], strict=True):
        num_held = num_drafts.get(request.start.req_id, 0)
        kept = confirmed(request, int(rows.positions[begin]), frame.dropped_frames)
        parts.append(joined([kept, taken(rows, slice(begin, end - num_held))]))
        if num_held:
            request.held = Held(frame, taken(rows, slice(end - num_held, end)))
    new_starts = np.cumsum([0, *(len(part.positions) for part in parts)])
    return new_starts, joined(parts)


def confirmed(request: LiveRequest, next_position: int, num_lost: int) -> FrameArrays:
    """What was held back of a request and lies below its next position. The rest is rejected, and
    counted so.

    Args:
        request: it no longer holds anything afterwards.
        next_position: of the first token that is not among the drafts which were kept.
        num_lost: frames that its worker has lost by now.
    """
    if request.held is None:
        return _NONE
    frame, rows, request.held = request.held.frame, request.held.rows, None
    if frame.dropped_frames != num_lost:
        request.unseen["dropped_frame"] += len(rows.positions)
        return _NONE
    num_kept = int((rows.positions < next_position).sum())
    request.num_rejected += len(rows.positions) - num_kept
    return taken(rows, slice(num_kept))


_NONE = FrameArrays(np.empty((0, 0), np.float32), np.empty(0, np.int32), np.empty(0, np.int32))
