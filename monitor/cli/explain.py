"""`saeguard explain`."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from saeguard.monitor.cli.options import existing_rules
from saeguard.monitor.config import read_rules
from saeguard.monitor.errors import ConfigError
from saeguard.monitor.logging import printable
from saeguard.rules import Rule, RuleSet
from saeguard.rules.errors import did_you_mean
from saeguard.rules.explain import explain as explain_rule

_MAX_WIDTH = 100


def explain(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="RULE RULES",
            help="The rule's name or id, then files, directories and pack:NAME that hold it.",
        ),
    ],
    all_: Annotated[
        bool, typer.Option("--all", help="Explain every rule; give no RULE then.")
    ] = False,
) -> None:
    """Say in plain language what a rule watches, when it matches, what mutes it, what it needs."""
    wanted, items = (None, names) if all_ else (names[0], names[1:])
    if not items:
        raise typer.BadParameter(
            "after the rule, give the files that hold it (or --all, and files)"
        )
    ruleset = read_rules(existing_rules(items))
    rules = ruleset.rules if wanted is None else [_find(ruleset, wanted)]
    _print(ruleset, rules)


def _find(ruleset: RuleSet, wanted: str) -> Rule:
    for rule in ruleset.rules:
        if wanted in (rule.name, rule.id):
            return rule
    names = [rule.name for rule in ruleset.rules]
    raise ConfigError(
        f"there is no rule '{wanted}'{did_you_mean(wanted, names)}",
        f"the rules are {', '.join(names)}" if len(names) <= 20 else "",
    )


def _print(ruleset: RuleSet, rules: Sequence[Rule]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    width = min(_MAX_WIDTH, shutil.get_terminal_size().columns)
    today = datetime.now(UTC).date()
    for number, rule in enumerate(rules):
        if number:
            console.print()
        for line in explain_rule(ruleset, rule, today, width).splitlines():
            is_heading = bool(line) and not line.startswith(" ")
            console.print(Text(printable(line), style="bold" if is_heading else ""))
