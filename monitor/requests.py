"""One live request: what is known of it, which of its rows were seen, what is stored at its end."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from saeguard.monitor.alerts import Coverage, RequestRecord, RuleCounts
from saeguard.monitor.columns import Order, arranged
from saeguard.monitor.messages import (
    STOP_REASON,
    Frame,
    FrameArrays,
    RequestEnd,
    RequestStart,
)
from saeguard.monitor.phases import PhaseTracker
from saeguard.monitor.rows import RowTable
from saeguard.monitor.tokens import NOT_CAPTURED, TokenTexts
from saeguard.rules import RequestContext, Rule
from saeguard.rules.matches import Decision, Outcome

StopOutcome = Literal["stopped", "too_late"]


class _Kind(NamedTuple):
    """What distinguishes one decision from another in a request's account."""

    rule_id: str
    rule_name: str
    outcome: Outcome
    exception: str


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
    phases: PhaseTracker
    slot: int = -1
    """In `table`, from its first row on."""
    next_position: int = -1
    """Rows below it were seen before: a preempted request computes them again. -1: none seen."""
    first_position: int = 0
    """Of the first row seen: what lies before it came from the prefix cache."""
    num_observed: int = 0
    num_rejected: int = 0
    """Rows of speculated tokens that the model did not keep."""
    held: Held | None = None
    is_evaluated: bool = True
    """False: the rule engine had no room for it, so its rows count as unseen."""
    unseen: Counter[str] = field(default_factory=Counter)
    decisions: Counter[_Kind] = field(default_factory=Counter)
    """How often it was decided so about a match in this request, under whatever rule set."""
    uncovered: list[str] = field(default_factory=list)
    """Names of rules whose `min_coverage` it missed."""
    stopping: list[Rule] = field(default_factory=list)
    """Rules that have asked to end it."""
    end: RequestEnd | None = None
    missing_reason: str = "dropped_frame"
    """Why rows that never came are missing."""
    deadline_s: float = 0.0

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

    def count(self, decision: Decision) -> None:
        """Enter what became of a match into the request's account."""
        rule = decision.match.rule
        self.decisions[_Kind(rule.id, rule.name, decision.outcome, decision.exception or "")] += 1

    def matches_by_id(self) -> dict[str, int]:
        """Rule id -> how often the rule has matched so far."""
        matches: Counter[str] = Counter()
        for kind, count in self.decisions.items():
            matches[kind.rule_id] += count
        return dict(matches)

    @property
    def prompt_len(self) -> int:
        return len(self.start.prompt_token_ids)

    @property
    def is_complete(self) -> bool:
        """The request has ended and every row that the scheduler asked for is accounted for."""
        return self.end is not None and self._num_accounted >= self.end.num_scheduled

    @property
    def is_complete_but_for_drafts(self) -> bool:
        """Likewise, but for the rows that are held back."""
        num_held = len(self.held.rows.positions) if self.held else 0
        return self.end is not None and self._num_accounted + num_held >= self.end.num_scheduled

    def rearrange_held(self, order: Order) -> None:
        """Bring the columns of what is held back into another order."""
        if self.held is not None:
            rows = self.held.rows
            scores = arranged(rows.scores, order)
            self.held = Held(self.held.frame, FrameArrays(scores, rows.token_ids, rows.positions))

    @property
    def _num_accounted(self) -> int:
        return self.num_observed + self.num_rejected + sum(self.unseen.values())

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
        unseen = Counter(self.unseen)
        unseen["prefix_cache"] += self.first_position
        return _coverage(self.num_observed + unseen.total(), self.num_observed, unseen)

    def coverage(self) -> Coverage:
        """The final account: scheduled = observed + unseen, by reason. What was speculated and
        rejected never became part of the request.
        """
        assert self.end is not None
        unseen = Counter(self.unseen)
        unseen["prefix_cache"] += self.end.num_cached
        unseen[self.missing_reason] += max(0, self.end.num_scheduled - self._num_accounted)
        scheduled = self.end.num_scheduled + self.end.num_cached - self.num_rejected
        return _coverage(scheduled, self.num_observed, unseen)

    @property
    def stop_outcome(self) -> StopOutcome | None:
        """What became of the wish to stop it, after its end; None where there was none."""
        assert self.end is not None
        if not self.stopping:
            return None
        return "stopped" if self.end.reason.startswith(STOP_REASON) else "too_late"

    def record(self, features: tuple[str, ...]) -> RequestRecord:
        """What is stored of a request that ended, with the rows that are still kept."""
        assert self.end is not None
        rows, phases = self.table.get(self.slot)
        token_ids = rows.token_ids.tolist() if self.texts.captured else None
        return RequestRecord(
            req_id=self.start.req_id,
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
            counts=_rule_counts(self.decisions),
            features=list(features),
            token_ids=token_ids,
            texts=None if token_ids is None else [self.texts.text(t) for t in token_ids],
            first_recorded=int(rows.positions[0]) if len(rows.positions) else 0,
            scores=rows.scores.tobytes(),
            phases=phases.tobytes(),
            client=self.start.client,
            uncovered=self.uncovered,
            stop_outcome=self.stop_outcome or "",
        )


def _rule_counts(decisions: Counter[_Kind]) -> dict[str, RuleCounts]:
    outcomes: dict[str, Counter[str]] = defaultdict(Counter)  # by the rule's name
    suppressed: dict[str, Counter[str]] = defaultdict(Counter)
    for kind, count in decisions.items():
        outcomes[kind.rule_name][kind.outcome] += count
        if kind.outcome == "suppressed":
            suppressed[kind.rule_name][kind.exception] += count
    return {
        name: RuleCounts(
            matches=counts.total(),
            emitted=counts["alert"],
            limited=counts["limited"],
            suppressed=dict(suppressed[name]),
            building_block=counts["building_block"],
        )
        for name, counts in sorted(outcomes.items())
    }


def _coverage(scheduled: int, observed: int, unseen: Counter[str]) -> Coverage:
    reasons = {reason: count for reason, count in unseen.items() if count}
    return Coverage(scheduled=scheduled, observed=observed, unseen=reasons)
