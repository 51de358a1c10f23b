"""Makes the durable records out of what was decided."""

from __future__ import annotations

import time
import uuid
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from saeguard.monitor.alerts import (
    Alert,
    CorrelationEvidence,
    CountedMatch,
    Coverage,
    RequestRecord,
    Severity,
    SignalReading,
    new_alert_id,
)
from saeguard.monitor.condition_tree import condition_tree
from saeguard.monitor.detector import Detection
from saeguard.monitor.requests import END_LOST, LiveRequest
from saeguard.monitor.watchlist import Watchlist
from saeguard.rules import Reading, Rule, RuleSet, render_message
from saeguard.rules.matches import CorrelationMatch, Decision, Match
from saeguard.rules.model import Correlation


@dataclass(frozen=True, slots=True)
class AlertMaker:
    """Knows which rules and which watchlist are in force."""

    ruleset: RuleSet
    watchlist: Watchlist

    def alert(self, decision: Decision, detection: Detection) -> Alert:
        """The record of a match, or of what a match completed across requests.

        Args:
            decision: about the match of `detection`, or about a correlation that it completed.
            detection: where it happened.
        """
        match, request, rule = detection.match, detection.request, decision.match.rule
        context = decision.context
        return Alert(
            id=new_alert_id(),
            time_ns=time.time_ns(),
            request_id=request.start.external_id,
            req_id=request.id,
            model=context.model,
            lora=context.lora,
            tenant=context.tenant,
            client=context.client,
            policy=request.start.policy,
            rule_id=rule.id,
            rule_name=rule.name,
            rule_title=rule.title,
            severity=rule.severity,
            status=rule.status,
            tags=list(rule.tags),
            message=render_message(decision.match, context, request.text),
            phase=str(match.phase),
            first_position=match.first_position,
            position=match.position,
            token=request.text(match.position) if request.texts.captured else None,
            signals=[_signal(reading) for reading in match.readings.values()],
            condition=condition_tree(
                match.rule, {name: reading.holds for name, reading in match.readings.items()}
            ),
            **self._versions(),
            feature_labels=_of_features(match, self.watchlist.labels),
            feature_links=_of_features(match, self.watchlist.links),
            trace_headers=request.start.trace_headers,
            forward_time_ns=detection.frame.time_ns,
            coverage=request.coverage_so_far(),
            kind="match" if decision.match is match else "correlation",
            correlation=_correlation(decision.match),
            action=rule.action,
            action_outcome=_action_outcome(rule, request),
        )

    def health(self, name: str, title: str, message: str, severity: Severity = "high") -> Alert:
        """The record of something that is wrong with the monitor itself.

        Args:
            name: what takes the place of a rule's name; begins with `saeguard.`.
        """
        now_ns = time.time_ns()
        return Alert(
            id=new_alert_id(),
            time_ns=now_ns,
            request_id="",
            req_id="",
            model="",
            lora=None,
            tenant=None,
            rule_id=str(uuid.uuid5(uuid.NAMESPACE_URL, name)),
            rule_name=name,
            rule_title=title,
            severity=severity,
            status="stable",
            tags=[],
            message=message,
            phase="",
            first_position=-1,
            position=-1,
            token=None,
            signals=[],
            **self._versions(),
            feature_labels={},
            trace_headers=None,
            forward_time_ns=now_ns,
            coverage=Coverage(),
            kind="health",
        )

    def record(self, request: LiveRequest) -> RequestRecord:
        """The record of a request that has ended."""
        watchlist = self.watchlist
        return request.record(watchlist.columns, watchlist.head_rows, watchlist.digest)

    def _versions(self) -> dict[str, Any]:
        return {
            "ruleset_name": self.ruleset.name,
            "ruleset_version": self.ruleset.version,
            "ruleset_sha256": self.ruleset.sha256,
            "watchlist": self.watchlist.digest,
        }


def is_worth_recording(request: LiveRequest, share: float = 0.0) -> bool:
    """What somebody will want to look at: matches, whatever became of them, holes, and what clients
    tried to get out of; of the others a share, 0 to 1, drawn by the request's id.
    """
    if request.decisions or request.uncovered or request.opt_outs:
        return True
    if not request.coverage().complete or (request.end and request.end.reason == END_LOST):
        return True
    return is_drawn(request.id, share)


def is_drawn(req_id: str, share: float) -> bool:
    """Whether the request is one of this share, whatever happened in it: a fair sample."""
    return zlib.crc32(req_id.encode()) < share * 2**32


def _action_outcome(rule: Rule, request: LiveRequest) -> str:
    if rule.action == "alert":
        return ""
    return "requested" if request.end is None else "too_late"


def _of_features(match: Match, texts: Mapping[str, str]) -> dict[str, str]:
    """Those of the features that the match has read."""
    names = (name for reading in match.readings.values() for name in reading.features)
    return {name: texts[name] for name in names if name in texts}


def _signal(reading: Reading) -> SignalReading:
    return SignalReading(
        name=reading.signal,
        feature=reading.source,
        agg=reading.agg,
        value=reading.value,
        comparison=reading.comparison,
        threshold=reading.threshold,
        upper=reading.upper,
        holds=reading.holds,
        position=reading.position,
    )


def _correlation(match: object) -> CorrelationEvidence | None:
    if not isinstance(match, CorrelationMatch):
        return None
    correlation = match.rule.detection
    assert isinstance(correlation, Correlation)
    return CorrelationEvidence(
        type=correlation.type,
        timespan_s=correlation.timespan_s,
        group=dict(match.group),
        count=match.count,
        matches=[
            CountedMatch(event.rule, event.key, event.context.id, event.wall_ns)
            for event in match.events
        ],
    )
