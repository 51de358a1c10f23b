"""The figures of a backtest, drawn once for pages (SVG) and for files (PNG).

A page's SVG has its colours by the page's style, light or dark, and no text of users in it.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from saeguard.rules.calibration.curves import Curves
from saeguard.rules.calibration.intervals import Rate

_INCHES = (4.6, 3.1)
_INK, _LINE, _POSITIVE, _NEGATIVE = "#1b1f24", "#d5dae1", "#0072b2", "#c4500a"
_VARIABLES = {
    _INK: "var(--ink)", _LINE: "var(--line)", _POSITIVE: "var(--pos)", _NEGATIVE: "var(--neg)",
}  # fmt: skip
_STYLE: dict[Any, Any] = {
    "font.size": 9, "axes.edgecolor": _INK, "axes.labelcolor": _INK, "text.color": _INK,
    "xtick.color": _INK, "ytick.color": _INK, "axes.spines.top": False, "axes.spines.right": False,
    "legend.frameon": False, "svg.fonttype": "none", "text.parse_math": False,
    "font.sans-serif": ["DejaVu Sans"], "grid.color": _LINE,
}  # fmt: skip
_NUM_BINS = 40
_REACH = 6.0
"""Times the range of most values: as far as axes go from their middle."""


@dataclass(frozen=True, slots=True)
class Drawing:
    """One figure of a rule."""

    name: str
    title: str
    draw: Callable[[Axes], None]


def drawings_of(curves: Curves) -> Iterator[Drawing]:
    """Those for which there is something to draw."""
    has_positives, has_negatives = len(curves.positives) > 0, len(curves.negatives) > 0
    if has_positives and has_negatives:
        yield Drawing("roc", "ROC", lambda axes: _roc(axes, curves))
    yield Drawing("scores", "Scores", lambda axes: _histogram(axes, curves))
    yield Drawing("thresholds", "Thresholds", lambda axes: _sweep(axes, curves))
    if curves.earliest:
        yield Drawing("earliest", "Earliest alerts", lambda axes: _earliest(axes, curves))


def as_svg(drawing: Drawing, name: str) -> str:
    """To stand in a page.

    Args:
        name: one for each figure of the page, so that what they define is not mixed up.
    """
    with _drawn(drawing, {"svg.hashsalt": name}) as figure:
        written = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(written, format="svg", transparent=True, metadata=nothing)
    svg = written.getvalue()
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg[svg.index("<svg") :], flags=re.S)
    svg = re.sub(r' id="([^"#]*)"', f' id="{name}-\\1"', svg)
    svg = re.sub(r"(url\(#|href=\"#)", f"\\1{name}-", svg)
    svg = re.sub(
        r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true">', svg
    )
    svg = svg.replace("xlink:href", "href")
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    return svg


def save_png(drawing: Drawing, path: Path, title: str) -> None:
    """
    Raises:
        OSError: the file cannot be written.
    """
    with _drawn(drawing, {}) as figure:
        figure.suptitle(title, fontsize=9)
        figure.savefig(path, format="png", dpi=200, facecolor="white")


@contextmanager
def _drawn(drawing: Drawing, more: dict[Any, Any]) -> Iterator[Figure]:
    with matplotlib.rc_context({**_STYLE, **more}):
        figure = Figure(figsize=_INCHES, layout="constrained")
        axes = figure.subplots()
        drawing.draw(axes)
        yield figure


def _roc(axes: Axes, curves: Curves) -> None:
    false_alarms, recall = _shares(curves.false_alarm_rate), _shares(curves.recall)
    axes.plot([0, 1], [0, 1], color=_LINE, linewidth=1)
    axes.plot([0, *false_alarms, 1], [0, *recall, 1], color=_POSITIVE, linewidth=1.5)
    now = curves.thresholds.index(curves.signal.threshold)
    axes.plot(false_alarms[now], recall[now], "o", color=_INK, markersize=5)
    axes.annotate(
        f"threshold {curves.signal.threshold:g}",
        (false_alarms[now], recall[now]),
        textcoords="offset points",
        xytext=(8, -12) if false_alarms[now] < 0.6 else (-90, -12),
    )
    axes.set(xlabel="false alarms, share of negatives", ylabel="recall, share of positives")


def _histogram(axes: Axes, curves: Curves) -> None:
    edges = bin_edges(curves)
    for of_side, colour, name, hatch in (
        (curves.negatives, _NEGATIVE, "negatives", "//"),
        (curves.positives, _POSITIVE, "positives", ""),
    ):
        if len(of_side):
            shares = np.array(binned(of_side, edges)) / len(of_side)
            axes.stairs(
                shares, edges, fill=True, facecolor="none", edgecolor=colour, hatch=hatch,
                linewidth=1.5, label=name,
            )  # fmt: skip
    _mark_threshold(axes, curves)
    axes.set(xlabel="strictest threshold at which the rule matches", ylabel="share of requests")
    axes.legend()


def _sweep(axes: Axes, curves: Curves) -> None:
    for rates, colour, name, line in (
        (curves.recall, _POSITIVE, "recall", "-"),
        (curves.false_alarm_rate, _NEGATIVE, "false alarms", "--"),
    ):
        if rates[0].total:
            axes.plot(curves.thresholds, _shares(rates), line, color=colour, label=name)
            low, high = [rate.low for rate in rates], [rate.high for rate in rates]
            axes.fill_between(curves.thresholds, low, high, color=colour, alpha=0.2, linewidth=0)
    _mark_threshold(axes, curves)
    ends = bin_edges(curves)[[0, -1]].tolist()
    axes.set(xlabel="threshold", ylabel="share of requests", ylim=(-0.02, 1.02), xlim=ends)
    axes.legend()


def _earliest(axes: Axes, curves: Curves) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    steps = [num_tokens for num_tokens, _ in curves.earliest]
    rates = [rate for _, rate in curves.earliest]
    axes.step(steps, _shares(rates), where="post", color=_POSITIVE, linewidth=1.5)
    low, high = [rate.low for rate in rates], [rate.high for rate in rates]
    axes.fill_between(steps, low, high, step="post", color=_POSITIVE, alpha=0.2, linewidth=0)
    axes.set(
        xlabel="tokens after the span's first", ylabel="share of positives alerted",
        ylim=(-0.02, 1.02),
    )  # fmt: skip


def _shares(rates: Sequence[Rate]) -> list[float]:
    return [np.nan if rate.share is None else rate.share for rate in rates]


def _mark_threshold(axes: Axes, curves: Curves) -> None:
    axes.axvline(curves.signal.threshold, color=_INK, linewidth=1, linestyle=":")


def bin_edges(curves: Curves) -> npt.NDArray[np.float64]:
    """Of a histogram of the values. What lies far from most of them belongs to the outermost bins:
    an axis that reached there would show it and all else at one place.
    """
    values = np.concatenate([curves.positives, curves.negatives])
    values = values[np.isfinite(values)]
    own = curves.signal.threshold
    if not len(values):
        return np.array([own - 1, own + 1])
    tenth, middle, ninth = np.quantile(values, (0.1, 0.5, 0.9)).tolist()
    reach = _REACH * (ninth - tenth) or abs(middle) or 1.0
    low = min(max(float(values.min()), middle - reach), own)
    high = max(min(float(values.max()), middle + reach), own)
    return np.linspace(low, high if low < high else low + (abs(low) or 1.0), _NUM_BINS + 1)


def binned(values: npt.NDArray[np.float64], edges: npt.NDArray[np.float64]) -> list[int]:
    """How many are in each bin."""
    seen = values[np.isfinite(values)].clip(edges[0], edges[-1])
    counts: list[int] = np.histogram(seen, edges)[0].tolist()
    return counts
