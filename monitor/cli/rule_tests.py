"""`saeguard test`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from saeguard.monitor.cli import rule_test_views as views
from saeguard.monitor.cli.rule_test_json import json_object
from saeguard.monitor.errors import ConfigError
from saeguard.rules.testing.files import (
    FileResult,
    find_test_files,
    run_files,
    total_coverage,
    total_mutation_score,
)
from saeguard.rules.testing.junit import junit_xml


class Format(StrEnum):
    TEXT = "text"
    JSON = "json"


def _percentage(text: str) -> float:
    number = text.removesuffix("%")
    try:
        share = float(number) / 100
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not like 90%") from error
    if number == text and 0 < share <= 0.01:  # is it 0.9 % or 90 %?
        raise typer.BadParameter(f"write {100 * share:.0%} or {100 * share:g}%, not {text!r}")
    if not 0 <= share <= 1:
        raise typer.BadParameter(f"{text!r} is not between 0% and 100%")
    return share


def run_rule_tests(
    paths: Annotated[
        list[Path],
        typer.Argument(
            exists=True,
            metavar="TESTS...",
            help="Test files, and directories with *_test.yaml in them.",
        ),
    ],
    mutate: Annotated[
        bool, typer.Option("--mutate", help="Change the rules' numbers: which does no test notice?")
    ] = False,
    min_coverage: Annotated[
        float | None,
        typer.Option(
            parser=_percentage, metavar="PERCENT", help="Fail when less of the rules is covered."
        ),
    ] = None,
    min_score: Annotated[
        float | None,
        typer.Option(
            parser=_percentage, metavar="PERCENT", help="--mutate, and fail when fewer are noticed."
        ),
    ] = None,
    junit: Annotated[
        Path | None, typer.Option(dir_okay=False, metavar="FILE", help="Write JUnit XML there.")
    ] = None,
    format_: Annotated[Format, typer.Option("--format")] = Format.TEXT,
) -> None:
    """Run rule tests, and say what of the rules they have not seen.

    Exit code: 0 fine, 1 a test fails or too little is covered, 2 for wrong usage.
    """
    found = find_test_files(paths)
    if not found:
        raise ConfigError(
            f"no *_test.yaml in {', '.join(map(str, paths))}",
            "docs/rule-tests.md says what they look like",
        )
    files = _run(found, format_)
    failed = any(file.failed for file in files)
    coverage = total_coverage(files)
    wants_score = mutate or min_score is not None
    score = total_mutation_score(files) if wants_score and not failed else None
    if junit is not None:
        _write(junit, junit_xml(files))
    if format_ is Format.JSON:
        json.dump(json_object(files, coverage, score), sys.stdout, indent=1)
        print()
    else:
        views.print_totals(files, coverage, score, wants_score)
    too_little = [
        *_too_little("coverage", coverage.share, min_coverage),
        *_too_little("mutation score", score.share if score else 1.0, min_score),
    ]
    for line in too_little:
        print(line, file=sys.stderr)
    if failed or too_little:
        raise typer.Exit(1)


def _too_little(name: str, share: float, least: float | None) -> list[str]:
    if least is None or share >= least:
        return []
    return [f"{name} {share:.1%} is below {least:.1%}"]


def _run(paths: Sequence[Path], format_: Format) -> list[FileResult]:
    files = []
    for file in run_files(paths):
        files.append(file)
        if format_ is Format.TEXT:
            views.print_file(file)
    return files


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
