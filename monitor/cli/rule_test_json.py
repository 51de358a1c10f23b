"""The results of rule tests as one JSON object, for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from saeguard.rules.errors import Location
from saeguard.rules.testing.coverage import Coverage
from saeguard.rules.testing.files import FileResult
from saeguard.rules.testing.mutate import MutationScore
from saeguard.rules.testing.run import CaseResult


def json_object(
    files: Sequence[FileResult], coverage: Coverage, score: MutationScore | None
) -> dict[str, Any]:
    """Times in seconds, shares from 0 to 1; `mutation` is null when nothing was mutated."""
    results = [result for file in files for result in file.results]
    return {
        "version": 1,
        "counts": {
            status: sum(result.status == status for result in results)
            for status in ("ok", "failed", "todo")
        },
        "files": [_file(file) for file in files],
        "coverage": {
            "share": coverage.share,
            "seen": len(coverage.seen),
            "all": len(coverage.items),
            "missing": [_place(item.location) | {"what": str(item)} for item in coverage.missing],
        },
        "mutation": score and _score(score),
    }


def _file(file: FileResult) -> dict[str, Any]:
    return {
        "path": str(file.path),
        "errors": [asdict(error) | {"path": str(error.path)} for error in file.errors],
        "warnings": [
            asdict(warning) | {"path": str(warning.path)}
            for warning in (file.suite.warnings if file.suite else ())
        ],
        "tests": [_case(result) for result in file.results],
    }


def _case(result: CaseResult) -> dict[str, Any]:
    return {
        "name": result.case.name,
        "line": result.case.location.line,
        "status": result.status,
        "seconds": round(result.seconds, 6),
        "failures": [
            _place(report.failure.location)
            | {
                "message": report.failure.message,
                "todo": report.failure.is_todo,
                "notes": list(report.notes),
            }
            for report in result.reports
        ],
        "uncovered": [{"rule": e.rule, "request": e.request} for e in result.uncovered],
    }


def _score(score: MutationScore) -> dict[str, Any]:
    return {
        "share": score.share,
        "noticed": len(score.noticed),
        "all": len(score.mutants),
        "unnoticed": [
            _place(mutant.location)
            | {
                "rule": mutant.rule,
                "path": mutant.path,
                "before": mutant.before,
                "after": mutant.after,
            }
            for mutant in score.survivors
        ],
    }


def _place(location: Location) -> dict[str, Any]:
    return {"path": str(location.path), "line": location.line, "column": location.column}
