"""Makes whole frames of the parts that the stages of a pipeline send: each has the scores of the
layers that it holds.

The stages of an engine run the same steps in the same order, and number them alike. So two parts
belong together where engine and step agree; and a part is lost as soon as its stage has sent one of
a later step, because what one process sends arrives in order. Nothing is evaluated that is not
whole: the rows of a step of which a part is lost never come, and count as those of a dropped frame.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec
import numpy as np

from saeguard.monitor.messages import Frame, FrameArrays

Step = tuple[Frame, FrameArrays]

_PATIENCE_S = 30.0
"""How long a part waits for the others. A stage's first steps may compile for many seconds."""
_MAX_WAITING_BYTES = 256 << 20
"""Of one engine's parts."""
_HEADER_BYTES = 4096
"""About what a part takes beside its rows."""


class PartJoiner:
    """Not thread-safe: one thread feeds it frames in the order they arrive."""

    def __init__(
        self, patience_s: float = _PATIENCE_S, max_waiting_bytes: int = _MAX_WAITING_BYTES
    ) -> None:
        self._patience_s = patience_s
        self._max_waiting_bytes = max_waiting_bytes
        self._pipelines: dict[int, _Pipeline] = {}  # by engine

    def add(self, frame: Frame, arrays: FrameArrays, now_s: float) -> list[Step]:
        """The whole frames, in the order of their steps, that are there because of this one."""
        if frame.part is None:
            return [(frame, arrays)]
        pipeline = self._pipelines.setdefault(frame.part.engine, _Pipeline(frame.part.count))
        whole = pipeline.add(frame, arrays, now_s)
        while pipeline.num_waiting_bytes > self._max_waiting_bytes:
            whole += pipeline.settle_oldest()
        return whole

    def give_up(self, now_s: float) -> list[Step]:
        """Wait no longer for parts whose others came too long ago; the whole frames behind them."""
        whole: list[Step] = []
        for pipeline in self._pipelines.values():
            while pipeline.oldest_s < now_s - self._patience_s:
                whole += pipeline.settle_oldest()
        return whole

    def forget_worker(self, worker: int) -> None:
        """It has started anew, and with it its engine: steps are numbered from the first again."""
        for engine, pipeline in list(self._pipelines.items()):
            if worker in pipeline.newest:
                del self._pipelines[engine]


@dataclass(slots=True)
class _Waiting:
    """The parts of one step that have come."""

    since_s: float
    parts: dict[int, Step] = field(default_factory=dict)  # by worker

    @property
    def num_bytes(self) -> int:
        return sum(_size(rows) for _, rows in self.parts.values())


class _Pipeline:
    """The steps of one engine of which parts have come; `settled` is the last that is done with."""

    def __init__(self, num_parts: int) -> None:
        self.newest: dict[int, int] = {}
        """Worker -> its last step that we heard of."""
        self.num_waiting_bytes = 0
        self._num_parts = num_parts
        self._waiting: dict[int, _Waiting] = {}  # by step
        self._settled: int | None = None
        self._num_lost = 0

    @property
    def oldest_s(self) -> float:
        """Since when something has been waiting."""
        return min((w.since_s for w in self._waiting.values()), default=float("inf"))

    def add(self, frame: Frame, arrays: FrameArrays, now_s: float) -> list[Step]:
        assert frame.part is not None
        if self._settled is None:
            self._settled = frame.step - 1
        self.newest[frame.worker] = frame.step
        waiting = self._waiting.setdefault(frame.step, _Waiting(now_s))
        if frame.worker not in waiting.parts:
            waiting.parts[frame.worker] = frame, arrays
            self.num_waiting_bytes += _size(arrays)
        if len(self.newest) < self._num_parts:
            return []
        return self._settle(min(self.newest.values()))

    def settle_oldest(self) -> list[Step]:
        return self._settle(min(self._waiting))

    def _settle(self, last: int) -> list[Step]:
        """Nothing more is expected of the steps up to this one."""
        assert self._settled is not None
        whole = []
        for step in sorted(step for step in self._waiting if step <= last):
            waiting = self._waiting.pop(step)
            self.num_waiting_bytes -= waiting.num_bytes
            parts = [part for _, part in sorted(waiting.parts.items())]
            if len(parts) == self._num_parts and _are_alike(parts):
                self._num_lost += step - self._settled - 1
                self._settled = step
                whole.append(_joined(parts, self._num_lost))
        self._num_lost += max(0, last - self._settled)
        self._settled = max(self._settled, last)
        return whole


def _size(rows: FrameArrays) -> int:
    return _HEADER_BYTES + rows.scores.nbytes + rows.token_ids.nbytes + rows.positions.nbytes


def _are_alike(parts: list[Step]) -> bool:
    """Whether they are of the same rows."""
    first, rows = parts[0]
    return all(
        part.req_ids == first.req_ids
        and part.row_starts == first.row_starts
        and np.array_equal(others.positions, rows.positions)
        for part, others in parts[1:]
    )


def _joined(parts: list[Step], num_lost: int) -> Step:
    """The frame of a whole step, as one worker would have sent it.

    Args:
        parts: of the stages, in their order.
        num_lost: steps of this engine that were lost so far.
    """
    frames, arrays = zip(*parts, strict=True)
    # A stage changes to another watchlist between any two steps, the next one maybe between others:
    # scores of both are of no watchlist at all.
    watchlists = {frame.watchlist for frame in frames}
    frame = msgspec.structs.replace(
        frames[0],
        part=None,
        watchlist=watchlists.pop() if len(watchlists) == 1 else "",
        tap_calls=[calls for frame in frames for calls in frame.tap_calls],
        num_features=sum(frame.num_features for frame in frames),
        time_ns=frames[-1].time_ns,
        dropped_frames=num_lost,
    )
    columns = [column for frame in frames for column in frame.part.columns]
    scores = np.concatenate([rows.scores for rows in arrays], axis=1)[:, np.argsort(columns)]
    # The first stage is the one that reads the tokens.
    return frame, FrameArrays(scores, arrays[0].token_ids, arrays[0].positions)
