"""Joins frames to requests, keeps the ledger, and runs the rules.

Frames and request messages come from different processes, so either may be first: rows of a
request that has not been announced wait for it, and a request that has ended waits for its last
rows. Both for a bounded time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from saeguard.monitor.messages import Frame, FrameArrays, RequestEnd, RequestStart
from saeguard.monitor.phases import PhaseTracker, ReasoningTokens
from saeguard.monitor.requests import LiveRequest
from saeguard.rules import Engine, Match, RuleCount

GRACE_S = 5.0
"""How long an announced end waits for rows, and rows wait for an announced start."""

_MAX_PLACEHOLDERS = 1024  # no window of a rule is longer


@dataclass(frozen=True, slots=True)
class Detection:
    """A rule fired."""

    match: Match
    request: LiveRequest
    frame: Frame


@dataclass(frozen=True, slots=True)
class Finished:
    """A request has ended and all that can be known of it is known."""

    request: LiveRequest
    counts: list[RuleCount]


@dataclass(slots=True)
class _Waiting:
    """Rows of a request whose start has not arrived."""

    rows: list[tuple[Frame, FrameArrays, str | None]]
    """With the fault of their frame, if it has one."""
    deadline_s: float


class Detector:
    """Not thread-safe: one thread feeds it messages in the order they arrive."""

    def __init__(self, engine: Engine, watchlist: str, record_tokens: int) -> None:
        self._engine = engine
        self._watchlist = watchlist
        self._record_tokens = record_tokens
        self._requests: dict[str, LiveRequest] = {}
        self._ended: dict[
            str, None
        ] = {}  # live requests whose end has been announced, oldest first
        self._waiting: dict[str, _Waiting] = {}
        self._tap_calls: dict[int, list[int]] = {}
        self.delimiters: ReasoningTokens | None = None
        self.taps_alive: dict[int, bool] = {}
        """Worker rank -> its taps ran in its last step."""
        self.blind = False
        """A worker has said that it cannot be relied on."""
        self.num_nonfinite = 0
        """Rows in which the model gave no number: a broken model or SAE must not look safe."""
        self.num_orphans = 0
        """Rows whose request was never announced: the monitor was restarted in between."""

    @property
    def num_live(self) -> int:
        return len(self._requests)

    @property
    def num_unevaluated(self) -> int:
        """Rows that came while the rule engine's table was full."""
        return self._engine.num_ignored_tokens

    def start(self, message: RequestStart, now_s: float) -> list[Detection]:
        """A request was announced; rows that waited for it are evaluated."""
        if message.req_id in self._requests:
            return []
        request = LiveRequest(
            start=message,
            tracker=PhaseTracker(message.prompt_token_ids, self.delimiters),
            num_kept=self._record_tokens,
        )
        self._requests[message.req_id] = request
        waiting = self._waiting.pop(message.req_id, None)
        detections: list[Detection] = []
        for frame, rows, fault in waiting.rows if waiting else ():
            detections += self._take(frame, [(request, rows)], fault)
        return detections

    def end(self, message: RequestEnd, now_s: float) -> None:
        """A request's end was announced; `finished` returns it once its rows are in."""
        request = self._requests.get(message.req_id)
        if request is not None:
            request.end = message
            if self.blind:
                request.missing_reason = "blind"
            request.deadline_s = now_s + GRACE_S
            self._ended[message.req_id] = None

    def observe(self, frame: Frame, arrays: FrameArrays, now_s: float) -> list[Detection]:
        """The scores of one step."""
        fault = self._fault(frame)
        known = []
        for req_id, first, last in zip(
            frame.req_ids, frame.row_starts[:-1], frame.row_starts[1:], strict=True
        ):
            rows = FrameArrays(
                arrays.scores[first:last],
                arrays.token_ids[first:last],
                arrays.positions[first:last],
            )
            request = self._requests.get(req_id)
            if request is None:
                waiting = self._waiting.setdefault(req_id, _Waiting([], now_s + GRACE_S))
                waiting.rows.append((frame, rows, fault))
            else:
                known.append((request, rows))
        return self._take(frame, known, fault)

    def finished(self, now_s: float) -> Iterator[Finished]:
        """Requests that are complete, or whose missing rows have been waited for long enough."""
        for req_id in list(self._ended):
            request = self._requests[req_id]
            if request.is_complete or now_s >= request.deadline_s:
                del self._ended[req_id], self._requests[req_id]
                yield Finished(request, self._engine.finish(req_id))
        for req_id, waiting in list(self._waiting.items()):
            if now_s < waiting.deadline_s:
                break
            self.num_orphans += sum(len(rows.positions) for _, rows, _ in waiting.rows)
            del self._waiting[req_id]

    def _fault(self, frame: Frame) -> str | None:
        """Why the scores of this frame must not be believed."""
        before = self._tap_calls.get(frame.worker)
        self._tap_calls[frame.worker] = frame.tap_calls
        alive = before is None or all(n > b for n, b in zip(frame.tap_calls, before, strict=True))
        self.taps_alive[frame.worker] = alive
        if not alive:
            return "dead_tap"
        return None if frame.watchlist == self._watchlist else "other_watchlist"

    def _take(
        self, frame: Frame, batch: list[tuple[LiveRequest, FrameArrays]], fault: str | None
    ) -> list[Detection]:
        """Account for rows, and evaluate them unless their frame has a fault."""
        if fault is None:
            return self._evaluate(frame, batch)
        for request, rows in batch:
            request.unseen[fault] += len(rows.positions)
        return []

    def _mask(self, rows: FrameArrays) -> None:
        """Take out what cannot be evaluated: the attention sink and, counted, what is no number."""
        bad = ~np.isfinite(rows.scores)
        if bad.any():
            self.num_nonfinite += int(bad[rows.positions > 0].any(axis=1).sum())
            rows.scores[bad] = np.nan
        # The first token has a norm of its own, and SAEs are not trained on it.
        rows.scores[rows.positions == 0] = np.nan

    def _evaluate(
        self, frame: Frame, batch: list[tuple[LiveRequest, FrameArrays]]
    ) -> list[Detection]:
        keys, starts, rows, phases = [], [0], [], []
        for request, all_rows in batch:
            request.num_observed += len(all_rows.positions)
            new = _not_seen_before(request, all_rows)
            if not len(new.positions):
                continue
            self._mask(new)
            # Not before its first row: what waits in vLLM's queue must not take the engine's slots.
            self._engine.start(request.start.req_id, request.context)
            of_tokens = request.tracker.phases(new.positions, new.token_ids)
            request.keep(new, of_tokens)
            keys.append(request.start.req_id)
            starts.append(starts[-1] + len(of_tokens))
            rows.append(new)
            phases.append(of_tokens)
        if not keys:
            return []
        matches = self._engine.observe(
            keys,
            np.array(starts),
            np.concatenate([part.scores for part in rows]),
            np.concatenate([part.positions for part in rows]),
            np.concatenate(phases),
        )
        return [Detection(match, self._requests[match.key], frame) for match in matches]


def _not_seen_before(request: LiveRequest, rows: FrameArrays) -> FrameArrays:
    """Own copies of the rows above the request's high-water mark.

    Where a frame was lost, rows of NaN hold the place of what was not observed, so that a window
    of the rules spans the tokens it says it spans.
    """
    first = int(np.searchsorted(rows.positions, request.next_position))
    positions = rows.positions[first:]
    if not len(positions):
        return FrameArrays(rows.scores[:0], rows.token_ids[:0], positions)
    num_lost = 0
    if request.first_position is None:
        request.first_position = int(positions[0])
    else:
        num_lost = min(int(positions[0]) - request.next_position, _MAX_PLACEHOLDERS)
    request.next_position = int(positions[-1]) + 1
    start = int(positions[0]) - num_lost
    return FrameArrays(
        scores=np.pad(rows.scores[first:], ((num_lost, 0), (0, 0)), constant_values=np.nan),
        token_ids=np.pad(rows.token_ids[first:], (num_lost, 0), constant_values=-1),
        positions=np.arange(start, request.next_position, dtype=np.int32),
    )
