"""Runs test files, and gathers what came of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from pathlib import Path

from saeguard.rules.errors import RuleError, RuleErrors
from saeguard.rules.loading.sources import is_test
from saeguard.rules.testing.cases import Suite
from saeguard.rules.testing.coverage import Coverage, measure_coverage
from saeguard.rules.testing.load import load_suite
from saeguard.rules.testing.mutate import MutationScore, mutate
from saeguard.rules.testing.run import CaseResult, run_suite


@dataclass(frozen=True, slots=True)
class FileResult:
    """What came of one test file: errors, or results of its tests."""

    path: Path
    suite: Suite | None = None
    results: tuple[CaseResult, ...] = ()
    errors: tuple[RuleError, ...] = ()

    @property
    def failed(self) -> bool:
        """Whether it has errors, or a test of it failed."""
        return bool(self.errors) or any(result.status == "failed" for result in self.results)


def find_test_files(paths: Sequence[Path]) -> list[Path]:
    """The paths, with the test files in and below a directory in its place; each file once.

    Hidden folders are left out, and the tests of Prometheus' rules, which are called like ours.
    """
    found: dict[Path, None] = {}
    for path in paths:
        found |= dict.fromkeys(_files_below(path) if path.is_dir() else [path])
    return list(found)


def _files_below(folder: Path) -> list[Path]:
    tests = (path for path in folder.rglob("*") if is_test(path) and path.is_file())
    return sorted(p for p in tests if not _is_hidden(p, folder) and not _is_of_prometheus(p))


def _is_of_prometheus(path: Path) -> bool:
    """Whether it names rules as `promtool test rules` wants them, and none as we do."""
    try:
        keys = {line.partition(b":")[0] for line in path.read_bytes().splitlines()}
    except OSError:  # which is said when it is run
        return False
    return b"rule_files" in keys and b"rules" not in keys


def _is_hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def run_files(paths: Sequence[Path]) -> Iterator[FileResult]:
    """Run test files one after the other. What is wrong with a file is in its result."""
    for path in paths:
        try:
            suite = load_suite(path)
        except RuleErrors as error:
            yield FileResult(path, errors=error.errors)
        else:
            yield FileResult(path, suite, tuple(run_suite(suite)))


def total_coverage(files: Sequence[FileResult]) -> Coverage:
    """Of the rules that any of the files names; a rule may be tested in several."""
    parts = (measure_coverage(file.suite, file.results) for file in files if file.suite)
    return reduce(or_, parts, Coverage())


def total_mutation_score(files: Sequence[FileResult]) -> MutationScore:
    """Likewise; every test must have passed."""
    parts = (mutate(file.suite, file.results) for file in files if file.suite)
    return reduce(or_, parts, MutationScore())
