"""The live requests: what is known of each, which of its rows were seen, and what is kept of
them.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field

import numpy as np

from saeguard.monitor.alerts import Coverage, RequestRecord, RuleCounts
from saeguard.monitor.messages import FrameArrays, RequestEnd, RequestStart
from saeguard.monitor.phases import PhaseTracker
from saeguard.rules import RequestContext, RuleCount


@dataclass(slots=True)
class LiveRequest:
    """One request between its start and the last of its rows."""

    start: RequestStart
    tracker: PhaseTracker
    num_kept: int
    """How many of its last tokens are kept with their scores."""
    next_position: int = 0
    """Rows below it were seen before: a preempted request computes them again."""
    first_position: int | None = None
    """Of the first row seen: what lies before it came from the prefix cache."""
    num_observed: int = 0
    unseen: Counter[str] = field(default_factory=Counter)
    num_alerts: int = 0
    end: RequestEnd | None = None
    missing_reason: str = "dropped_frame"
    """Why rows that never came are missing."""
    deadline_s: float = 0.0
    _kept: deque[tuple[FrameArrays, np.ndarray]] = field(default_factory=deque)
    _num_kept_now: int = 0

    @property
    def context(self) -> RequestContext:
        extra = self.start.extra_args or {}
        tenant = extra.get("tenant")
        return RequestContext(
            model=self.start.model,
            lora=self.start.lora,
            tenant=str(tenant) if tenant is not None else None,
            id=self.start.external_id,
        )

    @property
    def is_complete(self) -> bool:
        """The request has ended and every row that the scheduler asked for is accounted for."""
        return self.end is not None and self._num_accounted >= self.end.num_scheduled

    @property
    def _num_accounted(self) -> int:
        return self.num_observed + sum(self.unseen.values())

    def keep(self, rows: FrameArrays, phases: np.ndarray) -> None:
        """Remember rows for the record; the oldest go when there are too many. Takes ownership
        of the arrays.
        """
        self._kept.append((rows, phases))
        self._num_kept_now += len(phases)
        while self._num_kept_now - len(self._kept[0][1]) >= self.num_kept:
            self._num_kept_now -= len(self._kept.popleft()[1])

    def token_id(self, position: int) -> int | None:
        """The token that was read at `position`, where it is still known."""
        if position < len(self.start.prompt_token_ids):
            return self.start.prompt_token_ids[position]
        for rows, _ in reversed(self._kept):
            hits = np.flatnonzero(rows.positions == position)
            if len(hits):
                return int(rows.token_ids[hits[0]])
        return None

    def coverage_so_far(self) -> Coverage:
        """Up to the newest row seen, while the request is running."""
        cached = self.first_position or 0
        unseen = dict(self.unseen) | ({"prefix_cache": cached} if cached else {})
        return Coverage(
            scheduled=self.num_observed + sum(unseen.values()),
            observed=self.num_observed,
            unseen=unseen,
        )

    def coverage(self) -> Coverage:
        """The final account: scheduled = observed + unseen, by reason."""
        assert self.end is not None
        unseen = Counter(self.unseen)
        unseen["prefix_cache"] += self.end.num_cached
        unseen[self.missing_reason] += max(0, self.end.num_scheduled - self._num_accounted)
        return Coverage(
            scheduled=self.end.num_scheduled + self.end.num_cached,
            observed=self.num_observed,
            unseen={reason: count for reason, count in unseen.items() if count},
        )

    def record(
        self, counts: list[RuleCount], features: tuple[str, ...], texts: list[str] | None
    ) -> RequestRecord:
        """What is stored of the request; `texts` as long as `recorded()`, or None."""
        assert self.end is not None
        context, rows, phases = self.context, *self.recorded()
        return RequestRecord(
            req_id=self.start.req_id,
            request_id=self.start.external_id,
            model=self.start.model,
            lora=self.start.lora,
            tenant=context.tenant,
            reason=self.end.reason,
            prompt_len=len(self.start.prompt_token_ids),
            num_tokens=len(self.start.prompt_token_ids) + len(self.end.output_token_ids),
            start_time_ns=self.start.time_ns,
            end_time_ns=self.end.time_ns,
            coverage=self.coverage(),
            counts={c.rule.name: RuleCounts(c.matches, c.emitted, c.limited) for c in counts},
            features=list(features),
            token_ids=rows.token_ids.tolist() if texts is not None else None,
            texts=texts,
            first_recorded=int(rows.positions[0]) if len(rows.positions) else 0,
            scores=rows.scores.tobytes(),
            phases=phases.tobytes(),
        )

    def recorded(self) -> tuple[FrameArrays, np.ndarray]:
        """The kept rows, one per position from the first to the last; what was not seen is NaN."""
        if not self._kept:
            none = np.empty(0, np.int32)
            return FrameArrays(np.empty((0, 0), np.float32), none, none), none.astype(np.uint8)
        positions = np.concatenate([rows.positions for rows, _ in self._kept])
        first = max(positions[0], positions[-1] + 1 - self.num_kept)
        length = int(positions[-1] - first + 1)
        at, wanted = positions - first, positions >= first
        scores = np.full((length, self._kept[0][0].scores.shape[1]), np.nan, np.float32)
        scores[at[wanted]] = np.concatenate([rows.scores for rows, _ in self._kept])[wanted]
        token_ids = np.zeros(length, np.int32)
        token_ids[at[wanted]] = np.concatenate([rows.token_ids for rows, _ in self._kept])[wanted]
        phases = np.zeros(length, np.uint8)
        phases[at[wanted]] = np.concatenate([phases for _, phases in self._kept])[wanted]
        all_positions = np.arange(first, first + length, dtype=np.int32)
        return FrameArrays(scores, token_ids, all_positions), phases
