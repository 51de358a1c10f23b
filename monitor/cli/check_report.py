"""What `saeguard check` has found, before it is printed in some format."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from typing import Literal

from saeguard.rules import Location, RuleError, RuleErrors, RuleSet, load_rules
from saeguard.rules.lints import HELP, Finding, lint_rules
from saeguard.rules.loading.sources import all_rule_files

INVALID = "invalid-rules"
_INVALID_HELP = (
    "The files do not make a rule set, so nothing of them can be loaded. docs/rules.md describes "
    "the language; `saeguard schema` writes a JSON Schema for editors."
)

Level = Literal["error", "warning", "note"]


@dataclass(frozen=True, slots=True)
class Problem:
    """An error or a lint at one place."""

    location: Location
    level: Level
    id: str
    message: str
    reason: str | None = None
    """Why a comment in the file silences it."""

    @property
    def help(self) -> str:
        return _INVALID_HELP if self.id == INVALID else HELP[self.id]


@dataclass(frozen=True, slots=True)
class Report:
    """All problems by place, and the rule set if there is one."""

    problems: Sequence[Problem]
    ruleset: RuleSet | None = None

    def shown(self, notes: bool) -> list[Problem]:
        """What nobody silenced."""
        return [
            problem
            for problem in self.problems
            if problem.reason is None and (notes or problem.level != "note")
        ]

    def count(self, level: Level) -> int:
        return sum(problem.level == level for problem in self.shown(notes=True))

    @property
    def num_silenced(self) -> int:
        return sum(problem.reason is not None for problem in self.problems)


def check_rules(items: Sequence[str], today: date) -> Report:
    """Load and lint one rule set: files, directories and `pack:NAME`."""
    with _uncollected():
        try:
            ruleset = load_rules(items)
        except RuleErrors as faults:
            return Report([_error(fault) for fault in faults.errors])
        files, _ = all_rule_files(items)
        findings = lint_rules(ruleset, files, today)
    return Report([_remark(finding) for finding in findings], ruleset)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Large rule sets become many objects and no garbage: looking for it would double the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _error(fault: RuleError) -> Problem:
    where = Location(fault.path, fault.line, fault.column)
    return Problem(where, "error", INVALID, fault.message)


def _remark(found: Finding) -> Problem:
    return Problem(found.location, found.level, found.lint, found.message, found.reason)
