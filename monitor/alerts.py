"""The durable records of what the monitor saw; log lines, spans and tables are projections."""

from __future__ import annotations

import os
import threading
import time
import uuid
from typing import Any, Literal, get_args

import msgspec
import numpy as np
import numpy.typing as npt

Severity = Literal["info", "low", "medium", "high", "critical"]
SEVERITIES: tuple[str, ...] = get_args(Severity)
"""In rising order."""

PHASES = ("system", "prompt", "reasoning", "answer", "tool_call")
"""`RequestRecord.phases` holds indices into this tuple."""


AlertKind = Literal["match", "correlation", "health"]
"""A rule fired in a request or across requests, or the monitor itself is not well.

An alert about the monitor's own health belongs to no request: its ids, model and phase are empty,
and its positions are -1.
"""


UnseenReason = Literal[
    "blind",
    "dead_tap",
    "dropped_frame",
    "evicted",
    "failed",
    "monitor_down",
    "other_watchlist",
    "rules_full",
]
"""Why rules did not see a row: see "How rows are counted" in docs/configuration.md."""
UNSEEN_REASONS: tuple[UnseenReason, ...] = get_args(UnseenReason)


class Coverage(msgspec.Struct, frozen=True):
    """How many rows of a request were seen: scheduled = observed + cached + num_unseen."""

    scheduled: int = 0
    observed: int = 0
    cached: int = 0
    """Served from the prefix cache, their scores known from the request that computed them."""
    unseen: dict[str, int] = {}
    """Reason -> rows."""

    @property
    def num_unseen(self) -> int:
        return sum(self.unseen.values())

    @property
    def complete(self) -> bool:
        return self.num_unseen == 0

    @property
    def share(self) -> float:
        """The part of the scheduled rows whose scores are known; 1 where none were scheduled."""
        return (self.observed + self.cached) / self.scheduled if self.scheduled else 1.0


_COMPARISONS = {"gt": ">", "gte": "≥", "lt": "<", "lte": "≤"}


class SignalReading(msgspec.Struct, frozen=True):
    """One signal of a rule at the moment the rule fired."""

    name: str
    feature: str
    agg: str
    value: float
    """NaN where the feature was not observed."""
    comparison: str
    """The rule's own word, such as gte."""
    threshold: float
    holds: bool
    position: int
    """Token position that the value was read at."""
    upper: float | None = None
    """Of `between`, whose lower bound is `threshold`."""

    @property
    def wanted(self) -> str:
        """What the value is compared with, for people: `≥ 4`."""
        if self.upper is not None:
            return f"between {self.threshold:g} and {self.upper:g}"
        return f"{_COMPARISONS.get(self.comparison, self.comparison)} {self.threshold:g}"


class ConditionLine(msgspec.Struct, frozen=True):
    """A part of a rule's condition at the moment the rule fired."""

    text: str
    """The name of a signal, or how the lines below it are joined."""
    holds: bool
    depth: int
    """0 for the whole of it; what it is made of follows, one deeper."""


class CountedMatch(msgspec.Struct, frozen=True):
    """A match of some rule that a correlation counted."""

    rule: str
    req_id: str
    request_id: str
    time_ns: int


class CorrelationEvidence(msgspec.Struct, frozen=True):
    """What made a rule across requests fire."""

    type: str
    """The rule's own word, such as event_count."""
    timespan_s: float
    group: dict[str, str]
    """What the counted requests have in common: `tenant` -> its name, and so on."""
    count: int
    """Of matches, of distinct values, or of rules that have matched."""
    matches: list[CountedMatch]
    """The newest of them, oldest first, the one that completed it last; at most 32."""


class Alert(msgspec.Struct, frozen=True):
    """One rule fired, or the monitor itself is not well (`kind`).

    Whoever gets an `id` twice may drop one of the two.
    """

    id: str
    time_ns: int
    request_id: str
    """The client's id; of a rule across requests, that of the request that completed it."""
    req_id: str
    """The engine's id."""
    model: str
    lora: str | None
    tenant: str | None
    rule_id: str
    rule_name: str
    rule_title: str
    severity: str
    status: str
    tags: list[str]
    message: str
    phase: str
    first_position: int
    """Where the evidence starts."""
    position: int
    """Where the rule fired."""
    token: str | None
    """Text at `position`; None unless text is captured."""
    signals: list[SignalReading]
    ruleset_name: str
    ruleset_version: str
    ruleset_sha256: str
    watchlist: str
    """Digest of the watchlist whose rows made the scores."""
    feature_labels: dict[str, str]
    trace_headers: dict[str, str] | None
    forward_time_ns: int
    """When the forward pass of the firing token had been enqueued."""
    coverage: Coverage
    """Of the request so far."""
    kind: AlertKind = "match"
    client: str | None = None
    policy: str | None = None
    """What the client, or a proxy before us, says that the request is under."""
    action: str = "alert"
    """What the rule asks for."""
    action_outcome: str = ""
    """Of `stop`: `requested`, or `too_late` where the request had ended. What came of it is in the
    request's record.
    """
    feature_links: dict[str, str] = {}
    """Pages about the features, on Neuronpedia."""
    condition: list[ConditionLine] = []
    """The rule's, as a tree; none for a rule across requests."""
    correlation: CorrelationEvidence | None = None
    """Of kind `correlation`; its signals are then those of the match that completed it."""


class RuleCounts(msgspec.Struct, frozen=True):
    """What became of one rule's matches in one request; `matches` is the sum of the others."""

    matches: int = 0
    emitted: int = 0
    """Raised as alerts."""
    limited: int = 0
    suppressed: dict[str, int] = {}
    """By the name of the exception."""
    building_block: int = 0
    """Of a rule with `emit: false`."""
    opted_out: int = 0
    """The client had opted out of the rule."""


class RequestRecord(msgspec.Struct, frozen=True):
    """One request after its end, with the scores of its recorded tokens."""

    req_id: str
    request_id: str
    model: str
    lora: str | None
    tenant: str | None
    reason: str
    """Why it ended: vLLM's word, or `saeguard:` and the rule that stopped it."""
    prompt_len: int
    num_tokens: int
    start_time_ns: int
    end_time_ns: int
    coverage: Coverage
    counts: dict[str, RuleCounts]
    features: list[str]
    token_ids: list[int] | None
    texts: list[str] | None
    """None unless text is captured."""
    first_recorded: int
    """Position of the first recorded token: of row 0 of texts, scores and phases."""
    scores: bytes
    """float32 [tokens, features], NaN where a token was not observed."""
    phases: bytes
    """uint8 [tokens], indices into `PHASES`."""
    client: str | None = None
    policy: str | None = None
    opt_outs: dict[str, str] = {}
    """Name that the client gave to opt out of a rule -> `granted`, `mandatory`, `not_allowed` or
    `unknown`."""
    uncovered: list[str] = []
    """Rules whose `min_coverage` was missed: their silence means nothing here."""
    stop_outcome: str = ""
    """Where rules asked to stop it: `stopped`, or `too_late` when it ended otherwise."""
    watchlist: str = ""
    """Digest of the watchlist whose rows made the scores; empty in older records."""

    def score_array(self) -> npt.NDArray[np.float32]:
        """[tokens, features]"""
        return np.frombuffer(self.scores, dtype=np.float32).reshape(
            len(self.phases), len(self.features)
        )


# Not JSON, which has no NaN: a signal whose feature was not observed reads NaN.
_ENCODER = msgspec.msgpack.Encoder()
_ALERTS = msgspec.msgpack.Decoder(Alert)
_REQUESTS = msgspec.msgpack.Decoder(RequestRecord)


def encode(record: Alert | RequestRecord) -> bytes:
    return _ENCODER.encode(record)


def decode_alert(data: bytes) -> Alert:
    return _ALERTS.decode(data)


def decode_request(data: bytes) -> RequestRecord:
    return _REQUESTS.decode(data)


def readable(record: RequestRecord) -> dict[str, Any]:
    """The record as plain values for JSON, its arrays as lists, None for NaN."""
    plain: dict[str, Any] = msgspec.to_builtins(record)
    scores = record.score_array().astype(object)
    scores[np.isnan(record.score_array())] = None
    return plain | {"scores": scores.tolist(), "phases": [PHASES[code] for code in record.phases]}


class AlertIds:
    """Makes uuid7 strings that rise strictly within a process, even when the clock steps back.

    Layout (RFC 9562, method 1): 48 bits of milliseconds, a 12-bit counter, 62 random bits.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = 0
        """Milliseconds and counter, as one number."""

    def __call__(self) -> str:
        with self._lock:
            self._last = max(self._last + 1, (time.time_ns() // 1_000_000) << 12)
            milliseconds, counter = divmod(self._last, 1 << 12)
        noise = int.from_bytes(os.urandom(8)) >> 2
        value = milliseconds << 80 | 7 << 76 | counter << 64 | 2 << 62 | noise
        return str(uuid.UUID(int=value))


new_alert_id = AlertIds()
