"""Makes the durable records out of what the detector found."""

from __future__ import annotations

import time
from dataclasses import dataclass

from saeguard.monitor.alerts import Alert, RequestRecord, SignalReading, new_alert_id
from saeguard.monitor.detector import Detection, Finished
from saeguard.monitor.requests import LiveRequest
from saeguard.monitor.watchlist import Watchlist
from saeguard.rules import Reading, RuleSet, render_message


@dataclass(frozen=True, slots=True)
class AlertMaker:
    """Knows which rules and which watchlist are in force."""

    ruleset: RuleSet
    watchlist: Watchlist

    def alert(self, detection: Detection) -> Alert:
        """The record of one match."""
        match, request, rule = detection.match, detection.request, detection.match.rule

        context = request.context
        return Alert(
            id=new_alert_id(),
            time_ns=time.time_ns(),
            request_id=request.start.external_id,
            req_id=request.start.req_id,
            model=context.model,
            lora=context.lora,
            tenant=context.tenant,
            rule_id=str(rule.id),
            rule_name=rule.name,
            rule_title=rule.title,
            severity=str(rule.severity),
            status=str(rule.status),
            tags=list(rule.tags),
            message=render_message(match, context, request.text),
            phase=match.phase.name.lower(),
            first_position=match.first_position,
            position=match.position,
            token=request.text(match.position) if request.texts.captured else None,
            signals=[_signal(reading) for reading in match.readings.values()],
            ruleset_name=self.ruleset.name,
            ruleset_version=self.ruleset.version,
            ruleset_sha256=self.ruleset.sha256,
            watchlist=self.watchlist.digest,
            feature_labels={
                name: label
                for reading in match.readings.values()
                for name in reading.features
                if (label := self.watchlist.labels.get(name))
            },
            trace_headers=request.start.trace_headers,
            forward_time_ns=detection.frame.time_ns,
            coverage=request.coverage_so_far(),
        )

    def record(self, finished: Finished) -> RequestRecord:
        """The record of a request that raised an alert or was not wholly seen."""
        return finished.request.record(finished.counts, self.watchlist.columns)


def is_worth_recording(request: LiveRequest) -> bool:
    """Only what somebody will want to look at: alerts and holes."""
    return request.num_alerts > 0 or not request.coverage().complete


def _signal(reading: Reading) -> SignalReading:
    return SignalReading(
        name=reading.signal,
        feature=reading.source,
        agg=reading.agg,
        value=reading.value,
        comparison=reading.comparison,
        threshold=reading.threshold,
        holds=reading.holds,
        position=reading.position,
    )
