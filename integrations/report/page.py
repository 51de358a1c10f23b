"""A backtest as one HTML file: no script, nothing loaded from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from saeguard.integrations.report.figures import as_svg, bin_edges, binned, drawings_of, save_png
from saeguard.monitor.logging import printable
from saeguard.monitor.strip import visible
from saeguard.rules.calibration.backtest import SourceResult
from saeguard.rules.calibration.curves import Case, Curves, RuleReport
from saeguard.rules.calibration.intervals import Rate

_NUM_ROWS = 25


@dataclass(frozen=True, slots=True)
class Figure:
    name: str
    title: str
    svg: str


@dataclass(frozen=True, slots=True)
class Bin:
    """One bar of the histogram for either side."""

    low: float
    high: float
    positives: int
    negatives: int


@dataclass(frozen=True, slots=True)
class Block:
    """The sources of one kind."""

    title: str
    sources: list[SourceResult]


def write_html(
    path: Path, reports: Sequence[RuleReport], about: Sequence[str], hard: Sequence[str]
) -> None:
    """
    Args:
        about: what the numbers rest on, a line each.
        hard: patterns of the sources that are hard negatives.

    Raises:
        OSError: the file cannot be written.
    """
    environment = Environment(
        loader=PackageLoader("saeguard.integrations.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "printable": printable,
        "rate": rate,
        "number": number,
        "visible": visible,
    }
    page = environment.get_template("report.html").render(
        about=about,
        rules=[_values(number, report, hard) for number, report in enumerate(reports)],
    )
    temporary = path.with_name(path.name + ".partial")
    temporary.write_text(page, encoding="utf-8")
    temporary.replace(path)


def write_plots(
    directory: Path, reports: Sequence[RuleReport], about: Sequence[str], hard: Sequence[str]
) -> None:
    """One file for each figure of each rule; arguments as of `write_html`.

    Raises:
        OSError: a file cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for report in reports:
        for drawing in drawings_of(report.curves) if report.curves else ():
            name = report.result.rule
            save_png(drawing, directory / f"{name}-{drawing.name}.png", f"{name}: {drawing.title}")


def _values(number: int, report: RuleReport, hard: Sequence[str]) -> dict[str, object]:
    """By the names that the template uses."""
    curves = report.curves
    values: dict[str, object] = {
        "result": report.result,
        "curves": curves,
        "no_curves": report.no_curves,
        "how_drawn": report.how_drawn,
        "blocks": _blocks(report.result.sources, hard),
        "missed": _cases(report, "missed"),
        "false_alarms": _cases(report, "false alarm"),
    }
    if curves is None:
        return values
    return values | {
        "figures": [
            Figure(drawing.name, drawing.title, as_svg(drawing, f"r{number}-{drawing.name}"))
            for drawing in drawings_of(curves)
        ],
        "points": _points(curves),
        "bins": _bins(curves),
        "never": [int(np.isnan(side).sum()) for side in (curves.positives, curves.negatives)],
    }


def _cases(report: RuleReport, kind: str) -> list[Case]:
    return [case for case in report.cases if case.kind == kind]


def _points(curves: Curves) -> list[tuple[float, Rate, Rate, bool]]:
    """Some thresholds, among them the rule's own, with recall and false alarms."""
    points = list(zip(curves.thresholds, curves.recall, curves.false_alarm_rate, strict=True))
    step = max(1, len(points) // _NUM_ROWS)
    own = curves.signal.threshold
    return [(*p, p[0] == own) for i, p in enumerate(points) if i % step == 0 or p[0] == own]


def _bins(curves: Curves) -> list[Bin]:
    edges = bin_edges(curves)
    positives, negatives = (binned(side, edges) for side in (curves.positives, curves.negatives))
    bins = map(Bin, edges[:-1].tolist(), edges[1:].tolist(), positives, negatives)
    return [each for each in bins if each.positives or each.negatives]


def _blocks(sources: Sequence[SourceResult], hard: Sequence[str]) -> list[Block]:
    hard_ones = [source for source in sources if source.is_like(hard)]
    others = [source for source in sources if not source.is_like(hard)]
    blocks = [
        Block("hard negatives", hard_ones),
        Block("with positives", [source for source in others if source.positives.total]),
        Block("negatives only", [source for source in others if not source.positives.total]),
    ]
    return [block for block in blocks if block.sources]


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def rate(found: Rate) -> str:
    """`0.94 (0.91 to 0.97), 188 of 200`."""
    if found.share is None:
        return "-"
    low, high = f"{found.low:.3g}", f"{found.high:.3g}"
    return f"{found.share:.3g} ({low} to {high}), {found.count} of {found.total}"
