"""`saeguard check`."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Console

from saeguard.monitor.cli.check_formats import github_lines, json_object, text_lines
from saeguard.monitor.cli.check_report import Report, check_rules
from saeguard.monitor.cli.options import RuleItems
from saeguard.monitor.cli.sarif import sarif_log


class Format(StrEnum):
    TEXT = "text"
    JSON = "json"
    SARIF = "sarif"
    GITHUB = "github"


def check(
    rules: RuleItems,
    format_: Annotated[
        Format,
        typer.Option("--format", help="github: annotations, from a GitHub workflow's log."),
    ] = Format.TEXT,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings are findings too.")] = False,
    notes: Annotated[bool, typer.Option("--notes", help="Show notes, which never fail.")] = False,
) -> None:
    """Check rules, and print everything wrong or doubtful as file:line:column: message.

    A comment `# saeguard: ignore[LINT] reason` on the line silences a warning.

    Exit code: 0 without errors, 1 with errors (and with --strict also warnings), 2 for wrong usage.
    """
    report = check_rules(rules, datetime.now(UTC).date())
    _print(report, format_, notes)
    if report.count("error") or (strict and report.count("warning")):
        raise typer.Exit(1)


def _print(report: Report, format_: Format, notes: bool) -> None:
    match format_:
        case Format.TEXT:
            console = Console(highlight=False, soft_wrap=True)
            for line in text_lines(report, notes):
                console.print(line)
        case Format.JSON:
            json.dump(json_object(report, notes), sys.stdout, indent=1)
            print()
        case Format.SARIF:
            json.dump(sarif_log(report, notes), sys.stdout, indent=1)
            print()
        case Format.GITHUB:
            print(*github_lines(report, notes), sep="\n")
