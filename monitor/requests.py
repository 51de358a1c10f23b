"""One live request: what is known of it, which of its rows were seen, what is stored at its end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Literal

import msgspec
import numpy as np

from saeguard.monitor.alerts import Coverage, RequestRecord, UnseenReason
from saeguard.monitor.columns import Order, arranged
from saeguard.monitor.decision_counts import DecisionCounts
from saeguard.monitor.messages import (
    STOP_REASON,
    Frame,
    FrameArrays,
    MoreInput,
    NewBlocks,
    RequestEnd,
    RequestStart,
)
from saeguard.monitor.opt_outs import OptOuts
from saeguard.monitor.phases import ResumedTracker, Tracker
from saeguard.monitor.prefixes import Prefix, keep_next
from saeguard.monitor.rows import RowTable, taken
from saeguard.monitor.tokens import NOT_CAPTURED, TokenTexts
from saeguard.rules import RequestContext, Rule
from saeguard.rules.scope import shortened

StopOutcome = Literal["stopped", "too_late"]

MONITOR_SHUTDOWN = "monitor_shutdown"
"""Why a request's record ends, where the monitor ended before the request."""

END_LOST = "end_lost"
"""The same, where the engine did not know the request any more, and the message was lost."""

MONITOR_DOWN: UnseenReason = "monitor_down"
"""Why rows are missing that were computed before the monitor was there, or there again."""


@dataclass(frozen=True, slots=True)
class Held:
    """The last rows of a step: of speculated tokens, which the model may yet reject."""

    frame: Frame
    rows: FrameArrays


@dataclass(slots=True)
class LiveRequest:
    """Between its start and the last of its rows."""

    start: RequestStart
    texts: TokenTexts
    table: RowTable
    phases: Tracker
    prefix: Prefix
    opt_outs: OptOuts = field(default_factory=dict)
    slot: int = -1
    """In `table`, from its first row on."""
    next_position: int = 0
    """Rows below it were seen before: a preempted request computes them again."""
    num_observed: int = 0
    num_cached: int = 0
    """Rows from the prefix cache whose scores are known from the request that computed them."""
    num_rejected: int = 0
    """Rows of speculated tokens that the model did not keep."""
    num_missed: int = 0
    """Positions before its first row that came while there was no monitor."""
    held: Held | None = None
    is_evaluated: bool = True
    """False: the rule engine had no room for it, so its rows count as unseen."""
    unseen: Counter[UnseenReason] = field(default_factory=Counter)
    decisions: DecisionCounts = field(default_factory=DecisionCounts)
    """About matches in this request, under whatever rule set."""
    uncovered: list[str] = field(default_factory=list)
    """Names of rules whose `min_coverage` it missed."""
    stopping: list[Rule] = field(default_factory=list)
    """Rules that have asked to end it."""
    end: RequestEnd | None = None
    missing_reason: UnseenReason = "dropped_frame"
    """Why rows that never came are missing."""
    deadline_s: float = 0.0

    @property
    def id(self) -> str:
        """The engine's, as alerts and records have it."""
        return shortened(self.start.req_id)

    @property
    def context(self) -> RequestContext:
        """What rules may ask about the request."""
        return RequestContext(
            model=self.start.model,
            lora=self.start.lora,
            tenant=self.start.tenant,
            client=self.start.client,
            id=self.start.external_id,
        )

    @property
    def prompt_len(self) -> int:
        return len(self.start.prompt_token_ids)

    @property
    def is_complete(self) -> bool:
        """The request has ended and every one of its rows is accounted for."""
        return self.end is not None and self._num_missing <= 0

    @property
    def is_complete_but_for_drafts(self) -> bool:
        """Likewise, but for the rows that are held back."""
        num_held = len(self.held.rows.positions) if self.held else 0
        return self.end is not None and self._num_missing <= num_held

    def cut_off(self, reason: str, time_ns: int) -> None:
        """End it with what is known by now: nobody will tell of its end."""
        self.held = None
        self.end = RequestEnd(
            req_id=self.start.req_id,
            reason=reason,
            num_scheduled=self.coverage_so_far().scheduled + self.num_rejected - self.num_cached,
            num_cached=self.num_cached,
            num_output_tokens=max(0, self.next_position + 1 - self.prompt_len),
            time_ns=time_ns,
        )

    def count_rows(self, num_rows: int) -> None:
        """Rows came in a frame that is believed."""
        if self.is_evaluated:
            self.num_observed += num_rows
        else:
            self.unseen["rules_full"] += num_rows

    def count_failed(self, num_rows: int) -> None:
        """We failed at rows that were counted: rules may not have seen them."""
        if self.is_evaluated:
            self.num_observed -= num_rows
            self.unseen["failed"] += num_rows

    def recall(self, end: int) -> Iterator[FrameArrays]:
        """Rows between `next_position` and `end` that come from the prefix cache, in order, as far
        as anything is known of them, and enter them into the account.

        Rows among them of which nothing is known are NaN and have no token.
        """
        cached, position = self.prefix.cached, self.next_position
        while cached and cached[0][0] < end:
            first, stop = cached.pop(0)
            begin, position = max(first, position), max(min(stop, end), position)
            if begin < position and (rows := self._recall(begin, position)) is not None:
                yield rows

    def _recall(self, begin: int, end: int) -> FrameArrays | None:
        found = self.prefix.recall(begin, end)
        if found is None:
            self.unseen["evicted"] += end - begin
            return None
        scores, is_known, is_whole = found
        known, num_whole = np.flatnonzero(is_known), int(is_whole.sum())
        self.unseen["evicted"] += end - begin - len(known)
        self.unseen["other_watchlist"] += len(known) - num_whole
        if self.is_evaluated:
            self.num_cached += num_whole
        else:
            self.unseen["rules_full"] += num_whole
        token_ids = np.full(end - begin, -1, np.int32)
        prompt = self.start.prompt_token_ids[begin:end]
        token_ids[: len(prompt)] = prompt
        token_ids[~is_known] = -1
        rows = FrameArrays(scores, token_ids, np.arange(begin, end, dtype=np.int32))
        return taken(rows, slice(known[0], known[-1] + 1))

    def extend(self, more: MoreInput) -> None:
        """Its client has gone on with its input."""
        prompt = more.prompt_token_ids
        self.start = msgspec.structs.replace(self.start, prompt_token_ids=prompt)
        self.phases = ResumedTracker(self.phases, more.position, prompt, self.texts.phases)

    def add_blocks(self, made: NewBlocks) -> None:
        """Hear of blocks that it has made; their rows may have come before."""
        self.prefix.add(made)
        num_blocks = self.prefix.num_complete(self.next_position)
        if num_blocks > 0:
            shape = num_blocks, self.prefix.block_size
            positions = self.prefix.num_passed_tokens + np.arange(shape[0] * shape[1])
            blocks, is_known = self.table.at(np.array([self.slot]), positions.reshape(shape))
            keep_next([self.prefix] * num_blocks, blocks, is_known)

    def rearrange(self, order: Order) -> None:
        """Bring what is held back into another order of columns, of which some may be new."""
        end = self.next_position
        if self.held is not None:
            rows = self.held.rows
            scores = arranged(rows.scores, order)
            self.held = Held(self.held.frame, FrameArrays(scores, rows.token_ids, rows.positions))
            end = int(rows.positions[-1]) + 1
        if (order < 0).any():
            self.prefix.whole_from = end

    @property
    def _num_missing(self) -> int:
        """Rows of which nothing has been heard, after its end."""
        assert self.end is not None
        num_known = self.num_observed + self.num_cached + self.num_rejected + self.unseen.total()
        return self.end.num_scheduled + self.end.num_cached - num_known

    def token_id(self, position: int) -> int | None:
        """The token that was read at `position`, where it is still known."""
        if position < self.prompt_len:
            return self.start.prompt_token_ids[position]
        return None if self.slot < 0 else self.table.token_id(self.slot, position)

    def text(self, position: int) -> str:
        """Of the token at `position`, where text is captured."""
        token_id = self.token_id(position)
        return NOT_CAPTURED if token_id is None else self.texts.text(token_id)

    def coverage_so_far(self) -> Coverage:
        """Up to the newest row seen, while the request is running."""
        unseen = self.unseen + Counter({MONITOR_DOWN: self.num_missed})
        return self._coverage(self.num_observed + self.num_cached + unseen.total(), unseen)

    def coverage(self) -> Coverage:
        """The final account: scheduled = observed + cached + unseen, by reason. What was
        speculated and rejected never became part of the request.
        """
        assert self.end is not None
        scheduled = self.end.num_scheduled + self.end.num_cached - self.num_rejected
        num_missing = max(0, self._num_missing)
        num_down = min(num_missing, self.start.num_before)
        missing = Counter({MONITOR_DOWN: num_down}) + Counter(
            {self.missing_reason: num_missing - num_down}
        )
        return self._coverage(scheduled, self.unseen + missing)

    def _coverage(self, scheduled: int, unseen: Counter[UnseenReason]) -> Coverage:
        reasons: dict[str, int] = {reason: count for reason, count in unseen.items() if count}
        return Coverage(scheduled, self.num_observed, self.num_cached, reasons)

    @property
    def stop_outcome(self) -> StopOutcome | None:
        """What became of the wish to stop it, after its end; None where there was none, or where
        that is not known.
        """
        assert self.end is not None
        if not self.stopping or self.end.reason in (MONITOR_SHUTDOWN, END_LOST):
            return None
        return "stopped" if self.end.reason.startswith(STOP_REASON) else "too_late"

    def record(
        self,
        columns: tuple[str, ...],
        left_out: Collection[str] = frozenset(),
        watchlist: str = "",
    ) -> RequestRecord:
        """What is stored of a request that ended, with the rows that are still kept.

        Args:
            columns: what the scores are called.
            left_out: which of them are no features.
            watchlist: digest of that which has them.
        """
        assert self.end is not None
        rows, phases = self.table.get(self.slot)
        kept = [i for i, name in enumerate(columns) if name not in left_out]
        token_ids = rows.token_ids.tolist()
        return RequestRecord(
            req_id=self.id,
            request_id=self.start.external_id,
            model=self.start.model,
            lora=self.start.lora,
            tenant=self.start.tenant,
            reason=self.end.reason,
            prompt_len=self.prompt_len,
            num_tokens=self.prompt_len + self.end.num_output_tokens,
            start_time_ns=self.start.time_ns,
            end_time_ns=self.end.time_ns,
            coverage=self.coverage(),
            counts=self.decisions.by_rule(),
            features=[columns[i] for i in kept],
            token_ids=token_ids if self.texts.readable else None,
            texts=[self.texts.text(t) for t in token_ids] if self.texts.captured else None,
            first_recorded=int(rows.positions[0]) if len(rows.positions) else 0,
            scores=rows.scores.take(kept, axis=1).tobytes(),
            phases=phases.tobytes(),
            client=self.start.client,
            policy=self.start.policy,
            opt_outs=dict(self.opt_outs),
            uncovered=self.uncovered,
            stop_outcome=self.stop_outcome or "",
            watchlist=watchlist,
        )
