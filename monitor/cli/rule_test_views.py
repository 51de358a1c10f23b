"""How the results of rule tests look: at the width of a terminal, and whole lines in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from saeguard.monitor.logging import printable
from saeguard.rules.quantity import quantity
from saeguard.rules.testing.coverage import Coverage
from saeguard.rules.testing.files import FileResult
from saeguard.rules.testing.mutants import Mutant
from saeguard.rules.testing.mutate import MutationScore
from saeguard.rules.testing.run import CaseResult

_LABELS = {"ok": ("ok", "green"), "failed": ("FAIL", "bold red"), "todo": ("todo", "yellow")}


def print_file(file: FileResult) -> None:
    """Its tests, each with its time and what is wrong."""
    _print(file_lines(file))


def print_totals(
    files: Sequence[FileResult],
    coverage: Coverage,
    score: MutationScore | None,
    wants_score: bool,
) -> None:
    """How many tests did what, what they have not covered, which changes they do not notice."""
    _print([_counts(files), *coverage_lines(coverage)])
    if score is not None:
        _print(score_lines(score))
    elif wants_score:
        _print([_safe("no mutation testing: it needs tests that all pass", "yellow")])


def file_lines(file: FileResult) -> Iterator[RenderableType]:
    yield _safe(str(file.path), "bold")
    for error in file.errors:
        yield _indented(2, _safe(str(error), "red"))
    for warning in file.suite.warnings if file.suite else ():
        place = f"{warning.path}:{warning.line}:{warning.column}"
        yield _indented(2, _safe(f"{place}: warning: {warning.message}", "yellow"))
    for result in file.results:
        yield from _case_lines(result)
    yield Text()


def _case_lines(result: CaseResult) -> Iterator[RenderableType]:
    label, style = _LABELS[result.status]
    milliseconds = f"{1000 * result.seconds:.1f} ms"
    yield _hanging(
        Text.assemble("  ", (f"{label:<4}", style), "  ", (f"{milliseconds:>8}", "dim"), "  "),
        _safe(result.case.name),
    )
    for report in result.reports:
        failure = report.failure
        known = "todo: " if failure.is_todo and result.status != "todo" else ""
        yield _indented(8, _safe(f"{failure.location}: {known}{failure.message}"))
        for note in report.notes:
            yield _indented(10, _safe(note, "dim"))
    for each in result.uncovered:
        note = f"the silence of {each.rule} means nothing {each.where(result.case)}"
        yield _indented(
            8, _safe(f"uncovered: {note}, of which less than its min_coverage was seen")
        )


def _counts(files: Sequence[FileResult]) -> Text:
    results = [result for file in files for result in file.results]
    statuses = [result.status for result in results]
    where = f" in {quantity(len(files), 'file')}" if len(files) > 1 else ""
    parts = [
        Text(f"{statuses.count(status)} {status}", style)
        for status, (_, style) in _LABELS.items()
        if status in statuses
    ]
    if broken := sum(bool(file.errors) for file in files):
        parts.append(Text(f"{quantity(broken, 'file')} with errors", "bold red"))
    seconds = sum(result.seconds for result in results)
    return Text.assemble(
        f"{quantity(len(results), 'test')}{where}: ",
        Text(", ").join(parts),
        (f"  ({1000 * seconds:.0f} ms)", "dim"),
    )


def coverage_lines(coverage: Coverage) -> Iterator[RenderableType]:
    """What no test shows, by rule."""
    if not coverage.items:
        return
    missing = coverage.missing
    counts = f"{len(coverage.seen)} of {len(coverage.items)} seen"
    yield Text(f"coverage {coverage.share:.0%}: {counts}", "" if missing else "green")
    for item in missing:
        yield _indented(2, _safe(f"{item.location}: {item}"))


def score_lines(score: MutationScore) -> Iterator[RenderableType]:
    """Which numbers could change unnoticed, each with the values it could have."""
    survivors = score.survivors
    counts = f"{len(score.noticed)} of {len(score.mutants)} changed numbers are noticed"
    yield Text(f"mutation score {score.share:.0%}: {counts}", "" if survivors else "green")
    for (location, rule, path, before), group in groupby(survivors, key=_number_of):
        values = ", ".join(mutant.after for mutant in group)
        yield _indented(2, _safe(f"{location}: no test notices {rule} {path} {before} -> {values}"))


def _number_of(mutant: Mutant) -> tuple[object, str, str, str]:
    return mutant.location, mutant.rule, mutant.path, mutant.before


def _safe(text: str, style: str = "") -> Text:
    """Names come from files: no control character of theirs reaches the terminal."""
    return Text(printable(text), style)


def _indented(columns: int, text: Text) -> RenderableType:
    return Padding(text, (0, 0, 0, columns), expand=False)


def _hanging(first: Text, rest: Text) -> RenderableType:
    """Where `rest` is too long for the line it goes on below its own beginning."""
    grid = Table.grid()
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row(first, rest)
    return grid


def _print(lines: Iterable[RenderableType]) -> None:
    """Without a terminal there is no width to fit, and a broken line cannot be searched for."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 10_000)
    for line in lines:
        console.print(line)
