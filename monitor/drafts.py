"""Holds back the rows of speculated tokens until it is known whether the model kept them.

A step's last `num_drafts` rows of a request read tokens that a drafter proposed. Those that the
model rejects are overwritten: the request's next step begins at the first of them, or after all of
them. So a draft is settled by the first position of the next rows, and no window, average, sequence
or alert ever holds anything of a token that was taken back.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from saeguard.monitor.messages import Frame, FrameArrays


class DraftHold:
    """What is held back, by request."""

    def __init__(self) -> None:
        self._held: dict[str, FrameArrays] = {}

    def settle(self, frame: Frame, rows: FrameArrays) -> tuple[Frame, FrameArrays, dict[str, int]]:
        """The frame with the drafts that it confirms, and without those that it brings.

        Returns:
            The frame, its rows, and how many rejected rows each request had.
        """
        if not frame.num_drafts and self._held.keys().isdisjoint(frame.req_ids):
            return frame, rows, {}
        rejected: dict[str, int] = {}
        parts: list[FrameArrays] = []
        num_drafts = frame.num_drafts or [0] * len(frame.req_ids)
        bounds = zip(frame.row_starts, frame.row_starts[1:], num_drafts, strict=False)
        for req_id, (begin, end, num_held) in zip(frame.req_ids, bounds, strict=True):
            kept, num_rejected = self._confirmed(req_id, int(rows.positions[begin]))
            if num_rejected:
                rejected[req_id] = num_rejected
            parts.append(joined([kept, part(rows, begin, end - num_held)]))
            if num_held:
                self._held[req_id] = part(rows, end - num_held, end)
        starts = np.cumsum([0, *(len(each.positions) for each in parts)]).tolist()
        settled = msgspec.structs.replace(frame, row_starts=starts, num_drafts=[])
        return settled, joined(parts), rejected

    def end(self, req_id: str, num_tokens: int) -> tuple[FrameArrays | None, int]:
        """A request has ended with so many tokens: its last drafts that are among them, and how
        many are not.
        """
        if req_id not in self._held:
            return None, 0
        kept, num_rejected = self._confirmed(req_id, num_tokens)
        return (kept if len(kept.positions) else None), num_rejected

    def _confirmed(self, req_id: str, next_position: int) -> tuple[FrameArrays, int]:
        held = self._held.pop(req_id, None)
        if held is None:
            return _NONE, 0
        num_kept = int((held.positions < next_position).sum())
        return part(held, 0, num_kept), len(held.positions) - num_kept


def part(rows: FrameArrays, begin: int, end: int) -> FrameArrays:
    """Some consecutive rows."""
    which = slice(begin, end)
    return FrameArrays(rows.scores[which], rows.token_ids[which], rows.positions[which])


def joined(parts: list[FrameArrays]) -> FrameArrays:
    """Rows one after the other."""
    real = [each for each in parts if len(each.positions)]
    if len(real) == 1:
        return real[0]
    return FrameArrays(
        *(np.concatenate(arrays) for arrays in zip(*map(_arrays, real), strict=True))
    )


def _arrays(rows: FrameArrays) -> Iterator[npt.NDArray[Any]]:
    yield from (rows.scores, rows.token_ids, rows.positions)


_NONE = FrameArrays(np.empty((0, 0), np.float32), np.empty(0, np.int32), np.empty(0, np.int32))
