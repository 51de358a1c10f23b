"""Joins frames to requests, keeps the ledger, and runs the rules.

Frames and request messages come from different processes, so either may be first: rows of a
request that has not been announced wait for it, and a request that has ended waits for its last
rows. Both for a bounded time.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from saeguard.monitor.activations import Activations
from saeguard.monitor.alerts import UnseenReason
from saeguard.monitor.carry_over import carry_over
from saeguard.monitor.columns import Order, arranged
from saeguard.monitor.drafts import confirmed, settle
from saeguard.monitor.early_rows import Early, EarlyRows
from saeguard.monitor.finished_blocks import keep_blocks
from saeguard.monitor.live_heads import LiveHeads
from saeguard.monitor.messages import (
    Frame,
    FrameArrays,
    MoreInput,
    PrefixUpdate,
    RequestEnd,
    RequestStart,
    Running,
)
from saeguard.monitor.new_rows import only_new
from saeguard.monitor.opt_outs import OptOuts
from saeguard.monitor.phases import PhaseTracker, Starts, phases_of
from saeguard.monitor.prefixes import Prefixes
from saeguard.monitor.requests import END_LOST, MONITOR_SHUTDOWN, LiveRequest
from saeguard.monitor.rows import RowTable, taken
from saeguard.monitor.tokens import TokenTexts
from saeguard.monitor.workers import Workers
from saeguard.rules import Engine, Match

GRACE_S = 5.0
"""How long an announced end waits for rows, and rows wait for an announced start."""


@dataclass(frozen=True, slots=True)
class Detection:
    """A rule fired."""

    match: Match
    request: LiveRequest
    frame: Frame


class Detector:
    """Not thread-safe: one thread feeds it messages in the order they arrive."""

    def __init__(
        self,
        engine: Engine,
        watchlist: str,
        num_features: int,
        record_tokens: int,
        prefix_bytes: int = 256 << 20,
        activations: Activations | None = None,
        heads: LiveHeads | None = None,
    ) -> None:
        """
        Args:
            watchlist: digest of the one whose columns the engine reads.
            record_tokens: how many of a request's last rows are kept.
            prefix_bytes: of scores that are kept for what is in vLLM's prefix cache.
            activations: told of the scores of each row that the rules see.
            heads: fill columns that the taps leave to the monitor.
        """
        self._heads = heads or LiveHeads({}, ())
        self._engine = engine
        self._watchlist = watchlist
        self._orders: dict[str, Order | None] = {watchlist: None}
        self._table = RowTable(record_tokens, num_features)
        self._prefixes = Prefixes(num_features, prefix_bytes, record_tokens)
        self._requests: dict[str, LiveRequest] = {}
        self._ended: dict[str, None] = {}  # live requests whose end was announced, oldest first
        self._activations = activations
        self._early = EarlyRows(GRACE_S)
        self._unannounced: list[RequestEnd] = []
        self._num_unevaluated = 0  # by engines before this one
        self._has_drafts = False  # whether any frame ever had
        self.workers = Workers()
        self.num_nonfinite = 0
        """Rows in which the model gave no number: a broken model or SAE must not look safe."""
        self.num_phase_unsure = 0
        """Rows of ended requests that came after lost ones, in which the phase may have changed."""

    @property
    def num_live(self) -> int:
        return len(self._requests)

    @property
    def num_orphans(self) -> int:
        """Rows whose request was never announced: the monitor was restarted in between."""
        return self._early.num_orphans

    @property
    def num_unevaluated(self) -> int:
        """Rows that came while the rule engine's table was full."""
        return self._num_unevaluated + self._engine.num_ignored_tokens

    def start(
        self, message: RequestStart, texts: TokenTexts, opt_outs: OptOuts | None = None
    ) -> list[Detection]:
        """A request was announced; rows that waited for it are evaluated."""
        if message.req_id in self._requests:
            return []
        end = self._early.take_end(message.req_id)
        if message.has_ended and end is None:  # a monitor knew that before it died
            return []
        tracker = PhaseTracker(message.prompt_token_ids, texts.phases)
        prefix = self._prefixes.of(message)
        request = LiveRequest(message, texts, self._table, tracker, prefix, opt_outs or {})
        self._requests[message.req_id] = request
        detections: list[Detection] = []
        for frame, rows, fault in self._early.take(message.req_id):
            starts = np.array([0, len(rows.positions)])
            detections += self._take(frame, [request], starts, rows, fault)
        return detections + (self.end(*end) if end else [])

    def update_prefixes(self, message: PrefixUpdate) -> None:
        """Requests have made blocks that others may find, or found some themselves."""
        for req_id, made in message.made.items():
            if (request := self._requests.get(req_id)) is not None:
                request.add_blocks(made)
        for req_id, skipped in message.skipped.items():
            if (request := self._requests.get(req_id)) is not None:
                request.prefix.cached.append(skipped)

    def extend(self, message: MoreInput) -> None:
        """A request has a longer prompt now."""
        if (request := self._requests.get(message.req_id)) is not None:
            request.extend(message)

    def end(self, message: RequestEnd, now_s: float) -> list[Detection]:
        """A request's end was announced; `finished` returns it once its rows are in."""
        request = self._requests.get(message.req_id)
        if request is None:
            self._early.hold_end(message, now_s)
            return []
        request.end = message
        if self.workers.is_any_silent:
            request.missing_reason = "blind"
        request.deadline_s = now_s + GRACE_S
        self._ended[message.req_id] = None
        return self._settle_end(request)

    def cut_off(self, time_ns: int) -> None:
        """Nothing more will come: what still runs ends with what was seen of it."""
        for req_id, request in self._requests.items():
            if request.end is None:
                request.cut_off(MONITOR_SHUTDOWN, time_ns)
                self._ended[req_id] = None

    def reap(self, message: Running, now_s: float) -> None:
        """An engine has said what runs on it: of its other requests no end will come. Their last
        rows may.
        """
        running = set(message.req_ids)
        for req_id, request in self._requests.items():
            is_its_own = request.start.engine == message.engine
            if is_its_own and req_id not in running and req_id not in self._ended:
                request.deadline_s = now_s + GRACE_S
                self._ended[req_id] = None

    def forget_end(self, req_id: str) -> None:
        """It was announced of a request that was recorded before."""
        self._early.take_end(req_id)

    def observe(self, frame: Frame, arrays: FrameArrays, now_s: float) -> list[Detection]:
        """The scores of one step."""
        fault: UnseenReason | None = None if self.workers.do_taps_run(frame) else "dead_tap"
        starts = np.array(frame.row_starts)
        found = [self._requests.get(req_id) for req_id in frame.req_ids]
        requests = [request for request in found if request is not None]
        if len(requests) == len(found):
            return self._take(frame, requests, starts, arrays, fault)
        known = np.array([request is not None for request in found])
        for i in np.flatnonzero(~known):
            rows = taken(arrays, slice(starts[i], starts[i + 1]))
            self._early.hold(frame.req_ids[i], Early(frame, rows, fault), now_s)
        counts = np.diff(starts)
        rows = taken(arrays, np.repeat(known, counts))
        known_starts = np.concatenate([[0], np.cumsum(counts[known])])
        return self._take(frame, requests, known_starts, rows, fault) if requests else []

    def finished(self, now_s: float) -> Iterator[LiveRequest]:
        """Requests that are complete, or whose missing rows have been waited for long enough.

        What is kept of a request is lost with the next turn of the iterator.
        """
        for req_id in list(self._ended):
            request = self._requests[req_id]
            if request.is_complete or now_s >= request.deadline_s:
                if request.end is None:
                    request.cut_off(END_LOST, time.time_ns())
                if self.workers.is_any_silent:  # which may be known since its end
                    request.missing_reason = "blind"
                del self._ended[req_id], self._requests[req_id]
                self.num_phase_unsure += request.phases.num_unsure
                try:
                    self._engine.finish(req_id)
                    yield request
                finally:  # also when whoever asked fails at it
                    if request.slot >= 0:
                        self._table.close(request.slot)
        self._unannounced += self._early.give_up(now_s)

    def take_unannounced(self) -> list[RequestEnd]:
        """Requests that ended and were never announced to this monitor."""
        taken, self._unannounced = self._unannounced, []
        return taken

    def knows(self, req_id: str) -> bool:
        """Whether this request is live."""
        return req_id in self._requests

    def accept_watchlist(self, watchlist: str, order: Order) -> None:
        """Take frames with this digest, too: workers change from one watchlist to the next."""
        self._orders[watchlist] = order

    def adopt(
        self,
        engine: Engine,
        lookback: int,
        watchlist: str,
        order: Order | None,
        heads: LiveHeads | None = None,
    ) -> None:
        """Run other rules from the next row on, over live requests as well. When it fails,
        everything stays as it was.

        Args:
            engine: a new one, with the new rules.
            lookback: how many tokens bring it to the state that it would have.
            watchlist: digest of the one whose columns it reads.
            order: where each of those columns is in the watchlist until now; None: in the same
                place.
            heads: of that watchlist, where it is another one.
        """
        live = [r for r in self._requests.values() if r.slot >= 0 and r.is_evaluated]
        carry_over(live, engine, lookback, order)
        if order is not None:
            heads = heads or LiveHeads({}, ())
            heads.take_over(self._heads)
            for request in self._requests.values():
                request.rearrange(order)
            self._table.rearrange(order)
            self._prefixes.rearrange(order)
            self._orders = {watchlist: None, self._watchlist: order}
            self._heads = heads
        self._num_unevaluated += self._engine.num_ignored_tokens
        self._engine, self._watchlist = engine, watchlist

    def _take(
        self,
        frame: Frame,
        requests: list[LiveRequest],
        starts: Starts,
        rows: FrameArrays,
        fault: UnseenReason | None,
    ) -> list[Detection]:
        """Account for rows, and evaluate them unless their frame has a fault."""
        if frame.watchlist not in self._orders:
            fault = fault or "other_watchlist"
        if fault is not None:
            for request, begin, end in zip(requests, starts[:-1], starts[1:], strict=True):
                kept = confirmed(request, int(rows.positions[begin]), frame.dropped_frames)
                request.unseen[fault] += int(end - begin) + len(kept.positions)
            return []
        rows = self._masked(requests, starts, rows)
        if (order := self._orders[frame.watchlist]) is not None:
            rows = FrameArrays(arranged(rows.scores, order), rows.token_ids, rows.positions)
            if (order < 0).any():
                for request, last in zip(requests, rows.positions[starts[1:] - 1], strict=True):
                    request.prefix.whole_from = int(last) + 1
        self._has_drafts |= bool(frame.num_drafts)
        if self._has_drafts:
            starts, rows = settle(frame, requests, starts, rows)
        detections = self._account(frame, requests, starts, rows)
        if self._has_drafts:
            for request in requests:
                detections += self._settle_end(request)
        return detections

    def _settle_end(self, request: LiveRequest) -> list[Detection]:
        """The last drafts of a request that has ended, once they are all that is left."""
        if request.held is None or not request.is_complete_but_for_drafts:
            return []
        frame, end = request.held.frame, request.end
        assert end is not None
        # As without drafts, the last token counts as not read: a draft in its place may be another.
        next_position = request.prompt_len + end.num_output_tokens - 1
        rows = confirmed(request, next_position, frame.dropped_frames)
        starts = np.array([0, len(rows.positions)])
        return self._account(frame, [request], starts, rows) if len(rows.positions) else []

    def _account(
        self, frame: Frame, requests: list[LiveRequest], starts: Starts, rows: FrameArrays
    ) -> list[Detection]:
        """Count rows as observed, and evaluate those that are new."""
        counts = np.diff(starts).tolist()
        firsts = rows.positions[starts[:-1]].tolist()
        is_regular = True
        for request, count, first in zip(requests, counts, firsts, strict=True):
            if request.slot < 0:
                self._open(request, first)
            request.count_rows(count)
            is_regular &= first == request.next_position
        try:
            keep_blocks(requests, starts, rows, self._table)
            if is_regular:
                return self._evaluate(frame, requests, starts, rows)
            # What one request has just computed another may have from the cache.
            return self._evaluate(frame, *only_new(requests, starts, rows))
        except Exception:
            for request, count in zip(requests, counts, strict=True):
                request.count_failed(count)
            raise

    def _open(self, request: LiveRequest, first: int) -> None:
        """Give a request its slots. Not before its first row: what waits in vLLM's queue must not
        take the engine's.
        """
        request.slot = self._table.open()
        self._heads.open(request.slot)
        request.num_missed = first if request.start.num_before else 0
        num_refused = self._engine.num_refused
        self._engine.start(request.start.req_id, request.context)
        request.is_evaluated = self._engine.num_refused == num_refused

    def _evaluate(
        self, frame: Frame, requests: list[LiveRequest], starts: Starts, rows: FrameArrays
    ) -> list[Detection]:
        """Run the rules over new rows."""
        if not requests:
            return []
        counts = np.diff(starts)
        lasts = rows.positions[starts[1:] - 1].tolist()
        phases = phases_of([request.phases for request in requests], starts, rows)
        for request, last in zip(requests, lasts, strict=True):
            request.next_position = last + 1
        slots = np.array([request.slot for request in requests])
        self._heads.fill(slots, starts, rows.scores, rows.positions, phases)
        self._table.put(np.repeat(slots, counts), rows, phases)
        if self._activations is not None:
            self._activations.add(rows.scores)
        keys = [request.start.req_id for request in requests]
        matches = self._engine.observe(keys, starts, rows.scores, rows.positions, phases)
        return [Detection(match, self._requests[match.key], frame) for match in matches]

    def _masked(
        self, requests: list[LiveRequest], starts: Starts, rows: FrameArrays
    ) -> FrameArrays:
        """Copies without what cannot be evaluated: the attention sink and, counted, what is no
        number.
        """
        scores = rows.scores.copy()
        bad = ~np.isfinite(scores)
        if bad.any():
            seen = np.repeat([request.next_position for request in requests], np.diff(starts))
            is_new = rows.positions >= np.maximum(seen, 1)  # a preemption has some computed again
            self.num_nonfinite += int((bad.any(axis=1) & is_new).sum())
            scores[bad] = np.nan
        # The first token has a norm of its own, and SAEs are not trained on it.
        scores[rows.positions == 0] = np.nan
        return FrameArrays(scores, rows.token_ids, rows.positions)
