"""`saeguard check --format sarif`: the Static Analysis Results Interchange Format, 2.1.0."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

from saeguard.monitor.cli.check_formats import listed, shortest
from saeguard.monitor.cli.check_report import Problem, Report

_SCHEMA = (
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
)


def sarif_log(report: Report, notes: bool) -> dict[str, Any]:
    """One run, whose rules are the ids that occur; what a comment silences is a suppression."""
    problems = listed(report, notes)
    kinds = {problem.id: problem for problem in problems}
    numbers = {id_: number for number, id_ in enumerate(kinds)}
    driver = {"name": "saeguard", "rules": [_rule(problem) for problem in kinds.values()]}
    run = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "results": [_result(problem, numbers[problem.id]) for problem in problems],
    }
    return {"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}


def _rule(problem: Problem) -> dict[str, Any]:
    return {
        "id": problem.id,
        "shortDescription": {"text": problem.help.split(". ")[0].rstrip(".") + "."},
        "fullDescription": {"text": problem.help},
        "help": {"text": problem.help},
        "defaultConfiguration": {"level": problem.level},
    }


def _result(problem: Problem, number: int) -> dict[str, Any]:
    result = {
        "ruleId": problem.id,
        "ruleIndex": number,
        "level": problem.level,
        "message": {"text": problem.message},
        "locations": [{"physicalLocation": _place(problem)}],
    }
    if problem.reason is not None:
        result["suppressions"] = [{"kind": "inSource", "justification": problem.reason}]
    return result


def _place(problem: Problem) -> dict[str, Any]:
    return {
        "artifactLocation": {"uri": _uri(problem.location.path)},
        "region": {
            "startLine": problem.location.line,
            "startColumn": problem.location.column,
        },
    }


def _uri(path: Path) -> str:
    """Relative, as GitHub wants it, for files below the current directory."""
    short = Path(shortest(path))
    return short.as_uri() if short.is_absolute() else quote(short.as_posix())
