"""Makes durable and counts whatever the monitor decides: alerts, requests, totals."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping

from saeguard.monitor.alerting import is_worth_recording
from saeguard.monitor.alerts import UNSEEN_REASONS, Alert, RequestRecord
from saeguard.monitor.detector import Detection
from saeguard.monitor.finished import Finished
from saeguard.monitor.logging import log_alert, logger
from saeguard.monitor.messages import RequestEnd, RequestStart
from saeguard.monitor.opt_outs import OUTCOMES, OptOuts
from saeguard.monitor.requests import END_LOST, MONITOR_DOWN, LiveRequest
from saeguard.monitor.rulebook import Rulebook
from saeguard.monitor.store import Store
from saeguard.monitor.store_file import StoreError
from saeguard.rules import Rule
from saeguard.rules.decisions.decide import expired_exceptions
from saeguard.rules.matches import Decision, Outcome

_MAX_FINDINGS = 20
"""Lines of an alert about refused rules."""

_LOSSES_EVERY_S = 60.0
"""How often at most an alert tells of alerts that were lost."""

_METRICS: dict[Outcome, str] = {
    "alert": "alerts",
    "limited": "limited",
    "suppressed": "suppressed",
    "opted_out": "opted_out",
    "building_block": "building_blocks",
}

_AT_ZERO = (
    "rules/reload/ok", "rules/reload/refused", "requests/unattended", "requests/finished",
    "requests/end_lost",
    "tokens/scheduled", "tokens/observed", "tokens/cached",
    "messages/unreadable", "messages/failed",
)  # fmt: skip
"""Totals that any rules have."""

log = logger("saeguard.monitor")


class Reporter:
    """Writes to the store, the log and the totals. Totals are named as in `store.py`."""

    def __init__(self, store: Store, record_share: float = 0.0) -> None:
        """
        Args:
            record_share: of the requests that nobody has a reason to look at, to be recorded too.
        """
        began = [*_AT_ZERO, *(f"opt_outs/{outcome}" for outcome in OUTCOMES)]
        began += [f"tokens/unseen/{reason}" for reason in UNSEEN_REASONS]
        self.totals = Counter(dict.fromkeys(began, 0))
        self._unsaved: Counter[str] = Counter()
        self._finished = Finished(store.finished())
        self._store = store
        self._record_share = record_share
        self._num_losses_told = 0
        self._tell_losses_s = 0.0

    def introduce(self, book: Rulebook) -> None:
        """Begin each of its series at zero, or the first alert is no increase. Say what it asks
        for in vain.
        """
        for rule in book.ruleset.rules:
            for metric in ("alerts" if rule.emit else "building_blocks", "limited"):
                self.totals.setdefault(_key(metric, rule), 0)
            for exception in rule.exceptions:
                self.totals.setdefault(_key("suppressed", rule, exception.name), 0)
            if rule.min_coverage:
                self.totals.setdefault(_key("uncovered", rule), 0)
            if rule.allows_opt_out:
                self.totals.setdefault(_key("opted_out", rule), 0)
            for outcome in ("requested", "stopped", "too_late") if rule.action == "stop" else ():
                self.totals.setdefault(_key("stops", rule, outcome), 0)
        for rule, exception in expired_exceptions(book.ruleset, time.time_ns()):
            log.warning("exception_expired", rule=rule.name, exception=exception.name)

    def opted_out(self, start: RequestStart, opt_outs: OptOuts) -> None:
        """Count what a client asks to be left alone by, whatever comes of it."""
        self.count(Counter(f"opt_outs/{outcome}" for outcome in opt_outs.values()))
        log.warning("opt_out", request_id=start.external_id, tenant=start.tenant, rules=opt_outs)

    def decided(self, decision: Decision, detection: Detection, book: Rulebook) -> Alert | None:
        """Enter what became of a match, and raise the alert if it is one."""
        detection.request.decisions.count(decision)
        exception = [decision.exception] if decision.exception else []
        self.count({_key(_METRICS[decision.outcome], decision.match.rule, *exception): 1})
        if decision.outcome != "alert":
            return None
        alert = book.maker.alert(decision, detection)
        if alert.action_outcome:
            self.count({_key("stops", decision.match.rule, alert.action_outcome): 1})
        if alert.action_outcome == "requested":
            detection.request.stopping.append(decision.match.rule)
        self.raise_alert(alert)
        return alert

    def raise_alert(self, alert: Alert) -> None:
        """Into the store and the log."""
        try:
            self._store.add_alert(alert)
        except StoreError as error:  # the disk and the queue are full: the log line is left
            log.critical("alert_not_stored", alert_id=alert.id, error=str(error))
        log_alert(alert)

    def refused(self, reason: str, book: Rulebook) -> None:
        """Changed rules cannot be used: nobody is to believe that they are in force."""
        findings, ruleset = reason.splitlines(), book.ruleset
        log.error("rules_refused", findings=findings, in_force=ruleset.sha256)
        self.count({"rules/reload/refused": 1})
        if len(findings) > _MAX_FINDINGS:
            more = len(findings) - _MAX_FINDINGS
            findings = [*findings[:_MAX_FINDINGS], f"and {more} more, in the monitor's log"]
        kept = f"{ruleset.name} {ruleset.version} ({ruleset.sha256[:12]}) stays in force:"
        self.raise_alert(
            book.maker.health(
                "saeguard.rules_refused", "Changed rules were refused", "\n".join([kept, *findings])
            )
        )

    def blinded(self, reason: str, book: Rulebook) -> None:
        """Nothing can be seen until somebody does something."""
        log.critical("blind", reason=reason)
        title = "The monitor sees nothing"
        self.raise_alert(book.maker.health("saeguard.blind", title, reason))

    def tell_of_store(self, book: Rulebook, now_s: float) -> None:
        """What has happened to the store, and of alerts that had to make room in it before they
        were delivered: say so aloud.
        """
        for news in self._store.take_news():
            self.raise_alert(book.maker.health(news.name, news.title, news.message, news.severity))
        num_lost = self._store.evicted["num_undelivered"] - self._num_losses_told
        if not num_lost or now_s < self._tell_losses_s:
            return
        self._num_losses_told += num_lost
        self._tell_losses_s = now_s + _LOSSES_EVERY_S
        message = f"{num_lost} alerts left the full store before a destination had taken them"
        log.critical("alerts_evicted", alerts=num_lost, store=str(self._store.path))
        title = "Alerts were lost undelivered"
        self.raise_alert(book.maker.health("saeguard.alerts_evicted", title, message, "critical"))

    def finished(self, request: LiveRequest, book: Rulebook) -> None:
        """Enter a request that has ended, and keep it if somebody will want to look at it."""
        coverage = request.coverage()
        assert request.end is not None
        self._finished.add(request.start.req_id)
        self.count(
            {
                "requests/finished": 1,
                "requests/end_lost": int(request.end.reason == END_LOST),
                "tokens/scheduled": coverage.scheduled,
                "tokens/observed": coverage.observed,
                "tokens/cached": coverage.cached,
                **{f"tokens/unseen/{why}": n for why, n in coverage.unseen.items()},
            }
        )
        self._find_uncovered(request, coverage.share, book)
        if outcome := request.stop_outcome:
            self.count(Counter(_key("stops", rule, outcome) for rule in request.stopping))
        if is_worth_recording(request, self._record_share):
            self._keep(book.maker.record(request), request.start.has_ended)

    def _keep(self, record: RequestRecord, is_told_again: bool) -> None:
        try:
            self._store.add_request(record, is_told_again)
        except StoreError as error:  # counted there; it must not hold up those that ended after it
            log.error("request_not_stored", req_id=record.req_id, error=str(error))

    def unannounced(self, end: RequestEnd) -> None:
        """Enter a request of which only the end came: all else was told to a monitor that died."""
        self._finished.add(end.req_id)
        num_tokens = end.num_scheduled + end.num_cached
        self.count(
            {
                "requests/finished": 1,
                "tokens/scheduled": num_tokens,
                f"tokens/unseen/{MONITOR_DOWN}": num_tokens,
            }
        )

    def has_finished(self, req_id: str) -> bool:
        """Whether it was entered lately, by this monitor or one before it."""
        return req_id in self._finished

    def count(self, counts: Mapping[str, int]) -> None:
        """Add to totals that outlive the process."""
        self.totals.update(counts)
        self._unsaved.update(counts)

    def save_totals(self) -> None:
        """Hand the store what was counted since the last time."""
        if self._unsaved and not self._store.is_stalled:  # it can wait here, where it adds up
            self._store.add_totals(dict(self._unsaved), self._finished.take_unsaved())
            self._unsaved.clear()

    def _find_uncovered(self, request: LiveRequest, share: float, book: Rulebook) -> None:
        """Note the rules that asked to see more of the request than was seen."""
        rules = [rule for rule in book.ruleset.rules if share < rule.min_coverage]
        uncovered = [rule for rule in rules if rule.scope.admits(request.context)]
        if uncovered:
            request.uncovered = [rule.name for rule in uncovered]
            self.count({_key("uncovered", rule): 1 for rule in uncovered})
            log.warning(
                "uncovered",
                request_id=request.start.external_id,
                rules=request.uncovered,
                seen=round(share, 4),
            )


def _key(metric: str, rule: Rule, *labels: str) -> str:
    return "/".join((metric, rule.name, rule.severity, *labels))
