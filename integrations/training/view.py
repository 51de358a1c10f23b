"""The report for people."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table

from saeguard.integrations.training.report import Comparison, Figures, Report, verdict
from saeguard.monitor.cli.alert_views import safe
from saeguard.monitor.cli.recordings import indented
from saeguard.rules.calibration.backtest import NO_SOURCE
from saeguard.rules.quantity import quantity

_RECALL = "recall at 1 % false positives"


def as_text(report: Report) -> RenderableType:
    return Group(*_lines(report))


def _lines(report: Report) -> Iterator[RenderableType]:
    yield (
        f"{quantity(report.num_positives, 'positive')} and "
        f"{quantity(report.num_negatives, 'negative')} in {quantity(report.num_groups, 'group')}, "
        f"{quantity(report.num_tokens, 'token')} to learn from"
    )
    for number, noun, why in (
        (report.num_empty, "request", "nothing of the answer was recorded"),
        (report.num_unjudged, "request", f"no label says whether it is {report.name}"),
        (report.num_unobserved, "token", "an activation is missing (NaN)"),
    ):
        if number:
            yield f"{quantity(number, noun)} left out: {why}"
    yield ""
    yield safe(f"{report.kind} probe: {report.chosen}", "bold")
    num_same = report.chosen_in_folds.count(report.chosen)
    yield f"  chosen in {num_same} of {report.num_folds} folds, too"
    yield indented(_figures(report.figures))
    yield ""
    yield indented(_layers(report))
    if [source.name for source in report.sources] != [NO_SOURCE]:
        yield ""
        yield indented(_sources(report))
    if report.comparison:
        yield ""
        yield from _comparison(report.comparison)
        yield safe(verdict(report), "bold")
    yield ""
    yield (
        f"by cross-validation within cross-validation, {report.num_folds} folds of groups; "
        "intervals: 95 %, bootstrap by group"
    )


def _figures(figures: Figures) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_row("AUROC", str(figures.auroc))
    table.add_row(_RECALL, str(figures.recall))
    return table


def _layers(report: Report) -> Table:
    table = _table("read at", "AUROC", _RECALL, "best there")
    for part in report.layers:
        table.add_row(part.name, str(part.figures.auroc), str(part.figures.recall), part.chosen)
    return table


def _sources(report: Report) -> Table:
    table = _table("source", "positives found", "false alarms in negatives")
    for source in report.sources:
        found = f"{source.num_found} of {source.num_positives}" if source.num_positives else ""
        alarms = f"{source.num_false_alarms} of {source.num_negatives}"
        table.add_row(safe(source.name), found, alarms if source.num_negatives else "")
    return table


def _comparison(found: Comparison) -> Iterator[RenderableType]:
    yield safe(f"{found.rival}: {found.chosen}", "bold")
    yield indented(_figures(found.figures))
    if found.caveat:
        yield f"  {found.caveat}"
    for what, gain in (("AUROC", found.auroc_gain), ("recall", found.recall_gain)):
        yield (
            f"  {what} of the probe less that: {gain.value:+.3f} "
            f"({gain.low:+.3f} to {gain.high:+.3f})"
        )


def _table(*titles: str) -> Table:
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    for title in titles:
        table.add_column(title)
    return table
