"""`saeguard diff`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from saeguard.monitor.cli import recordings as shared
from saeguard.monitor.cli.alert_views import safe
from saeguard.monitor.replays import Change, changes
from saeguard.monitor.rule_changes import FeatureChange, RuleChange, feature_changes, rule_changes
from saeguard.rules.quantity import quantity

SIGNS = {"added": ("+", "green"), "removed": ("-", "red"), "moved": ("~", "yellow")}


def diff(
    old: Annotated[str, typer.Argument(metavar="OLD", help="A rule file or directory.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="Another one.")],
    recordings: Annotated[
        list[Path], typer.Argument(metavar="RECORDING...", help="Recorded requests.")
    ],
    format_: shared.FormatOption = shared.Format.TEXT,
) -> None:
    """Show which alerts two rule sets raise differently on the same recorded requests.

    Exit code: 0 no difference; 1 other alerts, or a rule or feature that is defined otherwise; 2
    wrong usage, rules or recordings.
    """
    requests = shared.read_requests(recordings)
    old_rules, before = shared.replay_files([old], requests)
    new_rules, after = shared.replay_files([new], requests)
    found = changes(before, after)
    of_rules, of_features = (
        rule_changes(old_rules, new_rules),
        feature_changes(old_rules, new_rules),
    )
    num_before, num_after = (
        sum(each.outcome == "alert" for each in played) for played in (before, after)
    )
    if format_ is shared.Format.JSON:
        plain = {
            "old_alerts": num_before,
            "new_alerts": num_after,
            "changes": _as_json(found),
            "rule_changes": [asdict(change) for change in of_rules],
            "feature_changes": [asdict(change) for change in of_features],
        }
        print(json.dumps(plain, indent=1))
    else:
        lines = [*_definitions_as_text(of_rules, of_features)]
        shared.console().print(Group(*lines, *_as_text(found, num_before, num_after)))
    if found or of_rules or of_features:
        raise typer.Exit(1)


def _as_json(found: Sequence[Change]) -> list[dict[str, object]]:
    return [
        {
            "change": change.kind,
            "old": change.old and shared.plain(change.old),
            "new": change.new and shared.plain(change.new),
        }
        for change in found
    ]


def _definitions_as_text(
    of_rules: Sequence[RuleChange], of_features: Sequence[FeatureChange]
) -> Iterator[RenderableType]:
    for rule in of_rules:
        text = f"{rule.rule}: {rule.key} {rule.old} → {rule.new}"
        yield Text.assemble(("~  ", "yellow"), safe(text))
    for feature in of_features:
        what = f"{feature.key} {feature.old} → {feature.new} of {', '.join(feature.features)}"
        note = f"warning: {what}: a recording cannot show what that changes"
        yield safe(note, "yellow")
    if of_rules or of_features:
        yield ""


def _as_text(found: Sequence[Change], num_before: int, num_after: int) -> Iterator[RenderableType]:
    by_rule: dict[str, list[Change]] = {}
    for change in found:
        by_rule.setdefault(change.either.rule, []).append(change)
    for of_rule in by_rule.values():
        yield shared.heading(of_rule[0].either)
        yield from (shared.indented(_change_table(of_rule)), "")
    if found:
        yield from (_summary(by_rule), "")
    same = "" if found else ", all at the same tokens"
    yield f"{quantity(num_before, 'alert')} before, {num_after} after{same}"


def _change_table(found: Sequence[Change]) -> Table:
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("", no_wrap=True)
    table.add_column("request", overflow="fold", max_width=36)
    table.add_column("token", no_wrap=True)
    table.add_column("message", overflow="fold", min_width=24)
    for change in found:
        sign, style = SIGNS[change.kind]
        table.add_row(
            Text(sign, style),
            safe(change.either.request),
            _tokens(change),
            safe(change.either.message),
        )
    return table


def _tokens(change: Change) -> str:
    """`answer 3 → 8`"""
    old = change.old.place if change.old else None
    new = change.new.place if change.new else None
    if old is None or new is None:
        return shared.token(old or new)
    return f"{shared.token(old)} → {new.token if new.phase == old.phase else shared.token(new)}"


def _summary(by_rule: dict[str, list[Change]]) -> Table:
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0), show_footer=len(by_rule) > 1)
    table.add_column("rule", "total", overflow="fold")
    total = Counter(change.kind for of_rule in by_rule.values() for change in of_rule)
    for kind, (_, style) in SIGNS.items():
        table.add_column(kind, str(total[kind]), justify="right", style=style)
    for rule, of_rule in by_rule.items():
        kinds = Counter(change.kind for change in of_rule)
        table.add_row(safe(rule), *(str(kinds[kind]) for kind in SIGNS))
    return table
