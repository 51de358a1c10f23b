"""`saeguard backtest`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.table import Table

from saeguard.monitor.cli import labelled
from saeguard.monitor.cli import recordings as shared
from saeguard.monitor.cli.alert_views import safe
from saeguard.monitor.config import read_rules
from saeguard.monitor.errors import ConfigError
from saeguard.rules.calibration.backtest import NO_SOURCE, RuleResult, backtest
from saeguard.rules.calibration.intervals import Rate
from saeguard.rules.recordings.offline import RecordingError


def run(
    items: labelled.ItemsArgument,
    data: labelled.DataOption,
    positive: labelled.PositiveOption = None,
    split: labelled.SplitOption = None,
    rule: Annotated[list[str] | None, typer.Option(help="Only this rule; repeatable.")] = None,
    format_: shared.FormatOption = shared.Format.TEXT,
) -> None:
    """Say how often rules are right on recorded requests whose answers are known.

    Exit code: 0 whatever is found, 2 for wrong usage, rules, recordings or labels.
    """
    rules, files = labelled.split_items(items)
    matched = labelled.read_examples(files, data, positive, split)
    try:
        results = backtest(read_rules(rules), matched.examples)
    except RecordingError as error:
        raise ConfigError(str(error), "record it with a watchlist of these rules") from error
    results = [result for result in results if not rule or result.rule in rule]
    if format_ is shared.Format.JSON:
        print(json.dumps([_as_json(result) for result in results], indent=1))
        return
    shared.console().print(Group(labelled.describe(matched), "", *_as_text(results)))


def _as_json(result: RuleResult) -> dict[str, Any]:
    return asdict(result) | {
        "median_latency": result.median_latency,
        "median_to_end": result.median_to_end,
    }


def _as_text(results: Sequence[RuleResult]) -> Iterator[RenderableType]:
    yield _overview(results)
    for result in results:
        if [source.source for source in result.sources] != [NO_SOURCE]:
            yield from ("", _sources(result))
    yield ""
    yield "intervals: 95 %, Wilson, requests taken as independent; per million tokens: a bound"
    if any(result.num_groups < result.recall.total + result.false_alarm_rate.total
           for result in results):  # fmt: skip
        yield "requests of one group are alike: the true intervals are wider"


def _overview(results: Sequence[RuleResult]) -> Table:
    table = _table("rule", "recall", "false alarms", "of 1,000 requests", "per million tokens",
                   "precision here", "latency", "before the end")  # fmt: skip
    for result in results:
        false_alarms = result.false_alarm_rate
        table.add_row(
            safe(result.rule),
            rate(result.recall),
            f"{false_alarms.count} of {false_alarms.total}",
            f"{_thousands(false_alarms.share)} ({_thousands(false_alarms.low)} to "
            f"{_thousands(false_alarms.high)})",
            _per_million(result),
            rate(result.precision),
            _tokens(result.median_latency),
            _tokens(result.median_to_end),
        )
    return table


def _sources(result: RuleResult) -> Table:
    table = _table(result.rule, "alerts of positives", "alerts of negatives")
    for source in result.sources:
        sides = (rate(side) if side.total else "" for side in (source.positives, source.negatives))
        table.add_row(safe(f"  {source.source}"), *sides)
    return table


def rate(found: Rate) -> str:
    """`.94 (.91 to .97), 188 of 200`."""
    if not found.total:
        return "-"
    return (
        f"{found.count / found.total:.3g} ({found.low:.2f} to {found.high:.2f}), "
        f"{found.count} of {found.total}"
    )


def _table(first: str, *titles: str) -> Table:
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column(safe(first), overflow="fold")
    for title in titles:
        table.add_column(title, justify="right", no_wrap=True)
    return table


def _thousands(share: float | None) -> str:
    return "-" if share is None else f"{1000 * share:.3g}"


def _per_million(result: RuleResult) -> str:
    if result.false_alarms_per_million is None:
        return "-"
    return f"{result.false_alarms_per_million:.3g} (< {result.false_alarms_per_million_high:.3g})"


def _tokens(number: float | None) -> str:
    return "-" if number is None else f"{number:g} tokens"
