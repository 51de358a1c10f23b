"""`saeguard replay`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from saeguard.monitor.cli import recordings as shared
from saeguard.monitor.cli.alert_views import safe
from saeguard.monitor.replays import Replayed, count_outcomes, find_uncovered
from saeguard.rules.matches import Outcome
from saeguard.rules.quantity import quantity
from saeguard.rules.recordings.recording import SUFFIXES

OUTCOMES: dict[Outcome, str] = {
    "alert": "alerts",
    "limited": "limited",
    "suppressed": "suppressed",
    "building_block": "building block",
}

MAX_LISTED = 5

Counts = dict[str, Counter[Outcome]]
Uncovered = dict[str, list[str]]


def replay(
    items: Annotated[
        list[str],
        typer.Argument(
            metavar="RULES... RECORDING...",
            help="Rule files, directories and pack:NAME, together one rule set; and recordings, "
            f"whose names end in {' or '.join(SUFFIXES)}.",
        ),
    ],
    format_: shared.FormatOption = shared.Format.TEXT,
) -> None:
    """Run rules over recorded requests, and list the alerts that they raise.

    Exit code: 0 with or without alerts, 2 for wrong usage, rules or recordings.
    """
    files = [item for item in items if item.endswith(SUFFIXES)]
    rules = [item for item in items if not item.endswith(SUFFIXES)]
    if not files:
        raise typer.BadParameter(f"give a recording too: a file *{' or *'.join(SUFFIXES)}")
    if not rules:
        raise typer.BadParameter("give rules too: a file, a directory or pack:NAME")
    requests = shared.read_requests(files)
    ruleset, found = shared.replay_files(rules, requests)
    alerts = [each for each in found if each.outcome == "alert"]
    counts = count_outcomes(ruleset, found)
    uncovered = find_uncovered(ruleset, requests)
    if format_ is shared.Format.JSON:
        print(json.dumps(_as_json(len(requests), alerts, counts, uncovered), indent=1))
    else:
        shared.console().print(Group(*_as_text(len(requests), alerts, counts, uncovered)))


def _as_json(
    num_requests: int, alerts: Sequence[Replayed], counts: Counts, uncovered: Uncovered
) -> dict[str, object]:
    return {
        "requests": num_requests,
        "alerts": [shared.plain(alert) for alert in alerts],
        "rules": {
            rule: {
                "matches": of_rule.total(),
                **{name: of_rule[name] for name in OUTCOMES},
                "uncovered": uncovered.get(rule, []),
            }
            for rule, of_rule in counts.items()
        },
    }


def _as_text(
    num_requests: int, alerts: Sequence[Replayed], counts: Counts, uncovered: Uncovered
) -> Iterator[RenderableType]:
    for rule in counts:
        if of_rule := [alert for alert in alerts if alert.rule == rule]:
            yield shared.heading(of_rule[0])
            yield from (shared.indented(_alert_table(of_rule)), "")
    if any(counts.values()):
        yield from (_summary(counts), "")
    if quiet := [rule for rule, of_rule in counts.items() if not of_rule]:
        yield Text.assemble(("never matched: ", "dim"), safe(", ".join(quiet)))
    for rule, missed in uncovered.items():
        known = ", ".join(missed[:MAX_LISTED]) + (", …" if len(missed) > MAX_LISTED else "")
        yield safe(
            f"uncovered: {rule} in {len(missed)} of {quantity(num_requests, 'request')}: {known}"
        )
    num_alerting = len({alert.request for alert in alerts})
    requests = quantity(num_requests, "request")
    yield f"{quantity(len(alerts), 'alert')} in {num_alerting} of {requests}"


def _alert_table(alerts: Sequence[Replayed]) -> Table:
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("request", overflow="fold", max_width=36)
    table.add_column("token", no_wrap=True)
    table.add_column("position", no_wrap=True, justify="right")
    table.add_column("message", overflow="fold", min_width=24)
    for alert in alerts:
        place = alert.place
        table.add_row(
            safe(alert.request),
            shared.token(place),
            "" if place is None else str(place.position),
            safe(alert.message),
        )
    return table


def _summary(counts: Counts) -> Table:
    """The rules that matched, and what became of it; outcomes that never came have no column."""
    total = sum(counts.values(), Counter[Outcome]())
    outcomes = [outcome for outcome in OUTCOMES if total[outcome] or outcome == "alert"]
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("rule", overflow="fold")
    for title in ("matches", *(OUTCOMES[outcome] for outcome in outcomes)):
        table.add_column(title, justify="right")
    for rule, of_rule in counts.items():
        if of_rule:
            numbers = (of_rule.total(), *(of_rule[outcome] for outcome in outcomes))
            table.add_row(safe(rule), *map(str, numbers))
    return table
