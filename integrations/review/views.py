"""What the templates show of an alert: plain values, nothing escaped yet."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from math import isfinite

from saeguard.monitor.alerts import PHASES, Alert, RequestRecord
from saeguard.monitor.logging import printable
from saeguard.monitor.recordings import phase_codes
from saeguard.monitor.strip import visible

CONTEXT = 200
"""Tokens on either side of the firing one."""
NUM_SHADES = 6

_LIKE_SCORES = ("value", "max", "mean", "ema", "rolling_mean_max", "topk_mean", "min_evidence")
"""Aggregates whose threshold can be compared with the score of a token."""


@dataclass(frozen=True, slots=True)
class Token:
    """One in the strip."""

    position: int
    text: str
    """Spaces and controls made visible; the score where no text is kept."""
    value: float | None
    """None where it was not observed."""
    shade: int
    """0 to `NUM_SHADES` - 1: what part of the peak."""
    is_over: bool
    """Whether it reaches the signal's threshold."""
    is_firing: bool
    is_evidence: bool
    """Between the first token of the evidence and the firing one."""
    ends_line: bool


@dataclass(frozen=True, slots=True)
class Band:
    """Tokens of one phase."""

    phase: str
    first: int
    tokens: list[Token]


@dataclass(frozen=True, slots=True)
class Strip:
    feature: str
    peak: float
    threshold: float | None
    has_text: bool
    bands: list[Band]
    num_tokens: int
    """Of the whole request."""

    @property
    def tokens(self) -> list[Token]:
        return [token for band in self.bands for token in band.tokens]


def strip_of(alert: Alert, record: RequestRecord, feature: str, is_blind: bool = False) -> Strip:
    """The tokens about the firing one, with the scores of one feature.

    Args:
        feature: one that the record has.
        is_blind: without what the rule wants of them.
    """
    values = record.score_array()[:, record.features.index(feature)]
    threshold = None if is_blind else score_threshold(alert, feature)
    begin = max(0, alert.position - CONTEXT - record.first_recorded)
    end = min(len(values), alert.position + CONTEXT + 1 - record.first_recorded)
    peak = max((float(v) for v in values[begin:end] if isfinite(v)), default=0.0)
    codes = phase_codes(record)
    bands: list[Band] = []
    for row in range(begin, end):
        token = _token(alert, record, row, float(values[row]), peak, threshold)
        phase = PHASES[codes[row]]
        if not bands or bands[-1].phase != phase:
            bands.append(Band(phase, token.position, []))
        bands[-1].tokens.append(token)
    return Strip(feature, peak, threshold, record.texts is not None, bands, record.num_tokens)


def score_threshold(alert: Alert, feature: str) -> float | None:
    """What a signal wants the feature to reach, where that is a score and not a count or a sum."""
    for signal in alert.signals:
        is_floor = signal.comparison in ("gt", "gte", "between")
        if signal.feature == feature and signal.agg in _LIKE_SCORES and is_floor:
            return signal.threshold
    return None


def _token(
    alert: Alert,
    record: RequestRecord,
    row: int,
    value: float,
    peak: float,
    threshold: float | None,
) -> Token:
    position = record.first_recorded + row
    known = value if isfinite(value) else None
    share = max(0.0, min(1.0, value / peak)) if known is not None and peak > 0 else 0.0
    text = record.texts[row] if record.texts is not None else None
    return Token(
        position=position,
        text=visible(text) if text is not None else number(known),
        value=known,
        shade=min(NUM_SHADES - 1, int(share * NUM_SHADES)),
        is_over=known is not None and threshold is not None and known >= threshold,
        is_firing=position == alert.position,
        is_evidence=alert.first_position <= position <= alert.position,
        ends_line=text is not None and text.endswith("\n"),
    )


@dataclass(frozen=True, slots=True)
class SignalRow:
    name: str
    feature: str
    label: str
    agg: str
    value: str
    wanted: str
    holds: bool
    position: int


@dataclass(frozen=True, slots=True)
class Line:
    """Of the condition."""

    depth: int
    text: str
    holds: bool
    signal: SignalRow | None
    """Where the line is one."""


def condition_lines(alert: Alert) -> list[Line]:
    rows = {row.name: row for row in signal_rows(alert)}
    return [
        Line(line.depth, printable(line.text), line.holds, rows.get(line.text))
        for line in alert.condition
    ]


def signal_rows(alert: Alert) -> list[SignalRow]:
    return [
        SignalRow(
            name=printable(signal.name),
            feature=signal.feature,
            label=printable(alert.feature_labels.get(signal.feature, "")),
            agg=signal.agg,
            value=number(signal.value if isfinite(signal.value) else None),
            wanted=signal.wanted,
            holds=signal.holds,
            position=signal.position,
        )
        for signal in alert.signals
    ]


def read_features(alert: Alert, record: RequestRecord) -> list[str]:
    """Those that the signals read, first those that made the rule fire. A group of features is
    written `l2(x, y)`.
    """
    signals = sorted(alert.signals, key=lambda signal: not signal.holds)
    names = [name for signal in signals for name in re.findall(r"\w+", signal.feature)]
    return [name for name in dict.fromkeys(names) if name in record.features]


def features_of(alert: Alert, record: RequestRecord) -> list[str]:
    """All that the record has scores of, those that the signals read first."""
    return list(dict.fromkeys([*read_features(alert, record), *record.features]))


def number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.2f}"


def moment(time_ns: int) -> str:
    """In UTC, for that is what other tools show beside it."""
    return datetime.fromtimestamp(time_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S")
