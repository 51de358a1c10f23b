"""Where the marks of the page's drawings are, in units of the SVG; CSS has their colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from saeguard.integrations.review.views import Strip, Token, moment
from saeguard.monitor.alert_context import Hour

HEIGHT = 100.0


@dataclass(frozen=True, slots=True)
class Bar:
    x: float
    y: float
    height: float
    title: str
    is_marked: bool = False


@dataclass(frozen=True, slots=True)
class Stretch:
    """Of the horizontal axis."""

    x: float
    width: float
    name: str


@dataclass(frozen=True, slots=True)
class ScoreChart:
    """A feature's scores over the tokens of a strip; every token is one unit wide."""

    width: int
    zero: float
    """y of a score of 0."""
    threshold: float | None
    """Likewise of the signal's."""
    bars: list[Bar]
    bands: list[Stretch]
    evidence: Stretch | None


def score_chart(strip: Strip) -> ScoreChart | None:
    """None where there is no token to draw."""
    tokens = strip.tokens
    if not tokens:
        return None
    values = [token.value for token in tokens if token.value is not None]
    levels = [0.0, *values, *([strip.threshold] if strip.threshold is not None else [])]
    low, high = min(levels), max(levels)
    unit = HEIGHT / 1.05 / (high - low or 1.0)

    def y(value: float) -> float:
        return round(HEIGHT - (value - low) * unit, 2)

    def bar(x: int, token: Token) -> Bar:
        value = token.value or 0.0
        top, bottom = y(max(value, 0.0)), y(min(value, 0.0))
        return Bar(x, top, round(bottom - top, 2), title_of(token), token.is_firing)

    return ScoreChart(
        width=len(tokens),
        zero=y(0.0),
        threshold=None if strip.threshold is None else y(strip.threshold),
        bars=[bar(x, token) for x, token in enumerate(tokens) if token.value],
        bands=_bands(strip),
        evidence=_evidence(tokens),
    )


def title_of(token: Token) -> str:
    """What a token tells of itself."""
    value = "not observed" if token.value is None else f"{token.value:.2f}"
    return f"{token.position}: {value}"


def _bands(strip: Strip) -> list[Stretch]:
    ends = np.cumsum([0, *(len(band.tokens) for band in strip.bands)]).tolist()
    return [
        Stretch(begin, end - begin, band.phase)
        for band, (begin, end) in zip(strip.bands, pairwise(ends), strict=True)
    ]


def _evidence(tokens: Sequence[Token]) -> Stretch | None:
    where = [x for x, token in enumerate(tokens) if token.is_evidence]
    return Stretch(where[0], len(where), "evidence") if where else None


def hour_bars(hours: Sequence[Hour], time_ns: int) -> list[Bar]:
    """A bar for each hour, one unit wide; the one in which `time_ns` lies is marked."""
    most = max((hour.num_alerts for hour in hours), default=0) or 1
    bars = []
    for x, hour in enumerate(hours):
        height = round(HEIGHT * hour.num_alerts / most, 2)
        title = f"from {moment(hour.begin_ns)[11:16]} UTC: {hour.num_alerts}"
        bars.append(Bar(x, HEIGHT - height, height, title, hour.covers(time_ns)))
    return bars
