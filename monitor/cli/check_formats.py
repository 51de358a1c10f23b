"""The formats of `saeguard check`: for people, for programs, for GitHub's annotations.

SARIF has a module of its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.text import Text

from saeguard.monitor.cli.check_report import Level, Problem, Report
from saeguard.monitor.logging import printable

_STYLES: dict[Level, str] = {"error": "bold red", "warning": "bold yellow", "note": "bold cyan"}
_COMMANDS: dict[Level, str] = {"error": "error", "warning": "warning", "note": "notice"}


def text_lines(report: Report, notes: bool) -> Iterator[Text]:
    """`file:line:column: level: message [lint]`, and a summary."""
    for problem in report.shown(notes):
        lint = "" if problem.level == "error" else f" [{problem.id}]"
        yield Text.assemble(
            (f"{printable(str(problem.location))}: ", "bold"),
            (f"{problem.level}: ", _STYLES[problem.level]),
            printable(problem.message),
            (lint, "dim"),
        )
    yield Text(summary(report, notes))


def summary(report: Report, notes: bool) -> str:
    """One line: what was looked at, and how much was found."""
    if report.ruleset is None:
        return f"{_number(report.count('error'), 'error')}; the rules were not loaded"
    found = [_number(report.count("warning"), "warning")]
    if num_notes := report.count("note"):
        found.append(_number(num_notes, "note") + ("" if notes else " (--notes shows them)"))
    if report.num_silenced:
        found.append(f"{report.num_silenced} silenced by comments")
    rules = _number(len(report.ruleset.rules), "rule")
    features = _number(len(report.ruleset.features), "feature")
    return f"{rules} and {features}: no errors, {', '.join(found)}"


def json_object(report: Report, notes: bool) -> dict[str, Any]:
    """One object; silenced problems are in it, with the reason."""
    ruleset = report.ruleset
    return {
        "version": 1,
        "loaded": ruleset is not None,
        "rules": len(ruleset.rules) if ruleset else None,
        "features": len(ruleset.features) if ruleset else None,
        "counts": {
            "error": report.count("error"),
            "warning": report.count("warning"),
            "note": report.count("note"),
            "silenced": report.num_silenced,
        },
        "problems": [_json_problem(problem) for problem in listed(report, notes)],
    }


def listed(report: Report, notes: bool) -> list[Problem]:
    """What formats for programs list: the silenced problems as well."""
    return [problem for problem in report.problems if notes or problem.level != "note"]


def github_lines(report: Report, notes: bool) -> Iterator[str]:
    """Workflow commands, which GitHub shows as annotations of the lines."""
    for problem in report.shown(notes):
        place = {
            "file": shortest(problem.location.path),
            "line": problem.location.line,
            "col": problem.location.column,
            "title": problem.id,
        }
        properties = ",".join(f"{key}={_property(str(value))}" for key, value in place.items())
        yield f"::{_COMMANDS[problem.level]} {properties}::{_data(printable(problem.message))}"
    yield _data(summary(report, notes))


def shortest(path: Path) -> str:
    """Relative to the current directory when the file is below it, else absolute."""
    absolute = Path(os.path.abspath(path))
    here = Path.cwd()
    return str(absolute.relative_to(here) if absolute.is_relative_to(here) else absolute)


def _json_problem(problem: Problem) -> dict[str, Any]:
    return {
        "file": str(problem.location.path),
        "line": problem.location.line,
        "column": problem.location.column,
        "level": problem.level,
        "id": problem.id,
        "message": problem.message,
        "help": problem.help,
        "silenced": problem.reason,
    }


def _number(count: int, noun: str) -> str:
    return f"{count or 'no'} {noun}{'' if count == 1 else 's'}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
