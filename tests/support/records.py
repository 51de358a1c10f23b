"""Alerts and request records for tests: everything has a default, name only what matters."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from saeguard.monitor.alerts import (
    Alert,
    CorrelationEvidence,
    CountedMatch,
    Coverage,
    RequestRecord,
    SignalReading,
    new_alert_id,
)
from saeguard.monitor.store import Store

PROMPT, REASONING, ANSWER = 1, 2, 3


def make_alert(**fields: Any) -> Alert:
    now_ns = time.time_ns()
    peak = SignalReading("peak", "deceit", "max", 7.21, "gte", 4.0, True, 2)
    defaults = {
        "id": new_alert_id(),
        "time_ns": now_ns,
        "request_id": "chatcmpl-1",
        "req_id": "chatcmpl-1-abcd",
        "model": "org/model",
        "lora": None,
        "tenant": "acme",
        "rule_id": "7d1c0c1e-5a0a-4b7c-8a5f-1c1f6f0c9b11",
        "rule_name": "deceit_in_reasoning",
        "rule_title": "Deceit in the chain of thought",
        "severity": "high",
        "status": "test",
        "tags": ["harm.deception"],
        "message": "max 7.21",
        "phase": "reasoning",
        "first_position": 1,
        "position": 2,
        "token": " pass",
        "signals": [peak],
        "ruleset_name": "core",
        "ruleset_version": "1",
        "ruleset_sha256": "ab" * 32,
        "watchlist": "cd" * 32,
        "feature_labels": {"deceit": "intends to mislead"},
        "trace_headers": None,
        "forward_time_ns": now_ns - 1_000_000,
        "coverage": Coverage(scheduled=6, observed=3, cached=2, unseen={"evicted": 1}),
    }
    return Alert(**defaults | fields)


def make_correlation(**fields: Any) -> Alert:
    """Two requests of one tenant."""
    matches = [
        CountedMatch("accepted", f"chatcmpl-{number}-abcd", f"chatcmpl-{number}", number * 10**9)
        for number in (7, 1)
    ]
    evidence = CorrelationEvidence("event_count", 600.0, {"tenant": "acme"}, 2, matches)
    return make_alert(kind="correlation", correlation=evidence, **fields)


def make_health_alert(**fields: Any) -> Alert:
    """About the monitor itself: of no request."""
    of_no_request = {
        "request_id": "",
        "req_id": "",
        "model": "",
        "tenant": None,
        "phase": "",
        "first_position": -1,
        "position": -1,
        "token": None,
        "signals": [],
        "coverage": Coverage(),
    }
    return make_alert(kind="health", **of_no_request | fields)


def make_request(
    scores: Sequence[float] = (float("nan"), 0.0, 7.21),
    texts: Sequence[str] | None = ("You", " are", " pass"),
    phases: Sequence[int] = (PROMPT, PROMPT, REASONING),
    **fields: Any,
) -> RequestRecord:
    """A request with one watched feature, `deceit`."""
    defaults = {
        "req_id": "chatcmpl-1-abcd",
        "request_id": "chatcmpl-1",
        "model": "org/model",
        "lora": None,
        "tenant": "acme",
        "reason": "stop",
        "prompt_len": phases.count(PROMPT),
        "num_tokens": len(scores),
        "start_time_ns": 1,
        "end_time_ns": 2,
        "coverage": Coverage(scheduled=6, observed=3, cached=2, unseen={"evicted": 1}),
        "counts": {},
        "features": ["deceit"],
        "token_ids": None,
        "texts": None if texts is None else list(texts),
        "first_recorded": 0,
        "scores": np.array(scores, np.float32).tobytes(),
        "phases": bytes(phases),
    }
    return RequestRecord(**defaults | fields)


def fill(store: Store, count: int) -> list[str]:
    """Store so many alerts, durably, and return their ids."""
    alerts = [make_alert() for _ in range(count)]
    for alert in alerts:
        store.add_alert(alert)
    store.flush()
    return [alert.id for alert in alerts]
