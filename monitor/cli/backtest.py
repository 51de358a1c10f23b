"""`saeguard backtest`."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.table import Table

from saeguard.monitor.cli import backtest_report, labelled, sharded
from saeguard.monitor.cli import recordings as shared
from saeguard.monitor.cli.alert_views import safe
from saeguard.monitor.cli.swept import choose
from saeguard.monitor.cli.trials import try_files
from saeguard.monitor.config import read_rules
from saeguard.monitor.errors import ConfigError
from saeguard.rules import RuleSet
from saeguard.rules.calibration.backtest import NO_SOURCE, RuleResult, SourceResult, count_trials
from saeguard.rules.calibration.intervals import Rate
from saeguard.rules.errors import did_you_mean
from saeguard.rules.quantity import quantity


def run(
    items: labelled.ItemsArgument,
    data: labelled.DataOption,
    positive: labelled.PositiveOption = None,
    split: labelled.SplitOption = None,
    rule: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RULE[:SIGNAL]",
            help="Only this rule, and which threshold of it the figures move; repeatable.",
        ),
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write all of it there, with figures, as one page.")
    ] = None,
    plots: Annotated[
        Path | None, typer.Option(help="Write the figures into this directory, as PNG.")
    ] = None,
    hard: Annotated[
        list[str] | None,
        typer.Option(help="Sources that are hard negatives, such as 'hard-*': told apart."),
    ] = None,
    format_: shared.FormatOption = shared.Format.TEXT,
    ray: sharded.RayOption = False,
    ray_workers: sharded.WorkersOption = 2,
    ray_address: sharded.AddressOption = None,
) -> None:
    """Say how often rules are right on recorded requests whose answers are known.

    Exit code: 0 whatever is found, 2 for wrong usage, rules, recordings or labels.
    """
    rules, files = labelled.split_items(items)
    runner = sharded.choose_runner(ray, ray_workers, ray_address)
    ruleset = read_rules(rules)
    wanted = _wanted(ruleset, rule)
    outputs = backtest_report.outputs(html, plots)
    if outputs and ray:
        raise typer.BadParameter("--html and --plots need all scores in one place: without --ray")
    known = labelled.known_labels(data, positive, split)
    matched = try_files(runner, ruleset, files, known)
    watchlists = sorted({trial.watchlist for trial in matched.examples} - {""})
    labelled.warn_of_other_watchlists(ruleset, watchlists)
    _check_sources(hard or [], {trial.label.source or NO_SOURCE for trial in matched.examples})
    results = count_trials(ruleset, matched.examples, hard or [])
    results = [result for result in results if not wanted or result.rule in wanted]
    if outputs:
        swept = [choose(result, matched.examples) for result in results]
        ids = frozenset[str]().union(*(each.all for each in swept))
        examples = labelled.examples_of(files, known, ids)
        reports = backtest_report.reports_of(ruleset, examples, results, swept, wanted)
        about = [f"{ruleset.name} {ruleset.version}; labels: {data.name}"]
        about.append(labelled.describe(matched))
        for output in outputs:
            output.write(reports, about, hard or [])
    if format_ is shared.Format.JSON:
        print(json.dumps([_as_json(result) for result in results], indent=1))
        return
    shared.console().print(Group(labelled.describe(matched), "", *_as_text(results)))


def _wanted(ruleset: RuleSet, written: list[str] | None) -> dict[str, str | None]:
    """The rules that are named, with the signal that stands behind one."""
    names = {rule.name for rule in ruleset.rules}
    found: dict[str, str | None] = {}
    for each in written or ():
        name, _, signal = each.partition(":")
        if name not in names:
            raise ConfigError(f"no rule '{name}'{did_you_mean(name, names)}")
        found[name] = signal or None
    return found


def _check_sources(patterns: list[str], sources: set[str]) -> None:
    """A pattern that is mistyped must not look as if there were no false alarms."""
    for pattern in patterns:
        if not fnmatch.filter(sources, pattern):
            known = ", ".join(sorted(sources))
            raise ConfigError(
                f"--hard {pattern}: no request is of such a source; there are {known}"
            )


def _as_json(result: RuleResult) -> dict[str, Any]:
    return asdict(result) | {
        "median_latency": result.median_latency,
        "median_to_end": result.median_to_end,
    }


def _as_text(results: Sequence[RuleResult]) -> Iterator[RenderableType]:
    for result in results:
        yield safe(result.rule, "bold")
        yield shared.indented(_figures(result))
        if [source.source for source in result.sources] != [NO_SOURCE]:
            yield shared.indented(_sources(result))
            if quiet := [source for source in result.sources if _is_quiet(source)]:
                num_requests = sum(source.negatives.total for source in quiet)
                names = ", ".join(source.source for source in quiet)
                yield safe(f"  no alert in {quantity(num_requests, 'negative')} of {names}")
        yield ""
    if any(result.has_groups for result in results):
        yield (
            "intervals: 95 %, by drawing whole groups again, never narrower than Wilson's; "
            "per million tokens: a bound that takes requests as independent"
        )
    else:
        yield "intervals: 95 %, Wilson, requests taken as independent; per million tokens: a bound"
    yield "first alert: in the median, of those in requests with a span"


def _figures(result: RuleResult) -> Table:
    false_alarms = result.false_alarm_rate
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_row("recall", rate(result.recall))
    table.add_row(
        "false alarms",
        f"{_thousands(false_alarms.share)} per 1,000 requests ({_thousands(false_alarms.low)} to "
        f"{_thousands(false_alarms.high)}), {false_alarms.count} of {false_alarms.total}; "
        f"{_per_million(result)}",
    )
    if result.hard_negatives.total:
        table.add_row("on hard negatives", rate(result.hard_negatives))
    table.add_row("precision here", rate(result.precision))
    if result.median_latency is not None and result.median_to_end is not None:
        begun = _when(result.median_latency, "began")
        table.add_row("first alert", f"{begun}, {_when(-result.median_to_end, 'was complete')}")
    return table


def _sources(result: RuleResult) -> Table:
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    for title in ("source", "alerts of positives", "alerts of negatives"):
        table.add_column(title, justify="left" if title == "source" else "right")
    for source in result.sources:
        if not _is_quiet(source):
            sides = (rate(s) if s.total else "" for s in (source.positives, source.negatives))
            table.add_row(safe(source.source), *sides)
    return table


def _is_quiet(source: SourceResult) -> bool:
    """Only negatives, and no alert: as it should be, and many may be so."""
    return not source.positives.total and not source.negatives.count


def rate(found: Rate) -> str:
    """`.94 (.91 to .97), 188 of 200`."""
    if not found.total:
        return "-"
    return (
        f"{found.count / found.total:.3g} ({found.low:.2f} to {found.high:.2f}), "
        f"{found.count} of {found.total}"
    )


def _when(num_tokens: float, what: str) -> str:
    side = "after" if num_tokens >= 0 else "before"
    noun = "token" if abs(num_tokens) == 1 else "tokens"
    return f"{abs(num_tokens):g} {noun} {side} the harm {what}"


def _thousands(share: float | None) -> str:
    return "-" if share is None else f"{1000 * share:.3g}"


def _per_million(result: RuleResult) -> str:
    if result.false_alarms_per_million is None:
        return "of no tokens"
    high = result.false_alarms_per_million_high
    return f"{result.false_alarms_per_million:.3g} per million tokens (< {high:.3g})"
