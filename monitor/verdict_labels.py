"""What reviewers have said of alerts, as labels for `saeguard backtest` and `calibrate`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from saeguard.monitor import verdicts
from saeguard.monitor.alerts import RequestRecord
from saeguard.monitor.store_file import reading
from saeguard.rules.calibration.labels import Label

_ANSWERS = {"true_positive": True, "false_positive": False}
"""`benign` says that the rule was right, and `unsure` nothing: neither can set a threshold."""
_SOURCE = "reviewer"


def verdict_labels(store: Path, records: Sequence[RequestRecord]) -> list[Label]:
    """One label for each of these requests of which an alert has a verdict.

    Of several alerts of one rule in a request, one that was right makes the rule right. They speak
    of alerts only: what a rule missed is not among them.

    Raises:
        StoreError: the store cannot be read.
    """
    request_ids = {record.req_id: record.request_id for record in records}
    with reading(store) as db:
        alerts = db.execute("SELECT id, req_id, rule FROM alerts").fetchall()
    said = verdicts.newest(store, (alert_id for alert_id, *_ in alerts))
    answers: dict[str, dict[str, bool]] = {}
    for alert_id, req_id, rule in alerts:
        word = said[alert_id].verdict if alert_id in said else ""
        if req_id in request_ids and word in _ANSWERS:
            of_request = answers.setdefault(request_ids[req_id], {})
            of_request[rule] = of_request.get(rule, False) or _ANSWERS[word]
    return [Label(name, of_rules, source=_SOURCE) for name, of_rules in answers.items()]
