"""What `saeguard check` has found, before it is printed in some format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Literal

from saeguard.rules import Location, RuleErrors, RuleSet, load_rules
from saeguard.rules.lints import HELP, lint_rules
from saeguard.rules.sources import all_rule_files

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
    try:
        ruleset = load_rules(items)
        files, _ = all_rule_files(items)
        findings = lint_rules(ruleset, files, today)
    except RuleErrors as faults:
        return Report(
            [
                Problem(
                    Location(error.path, error.line, error.column), "error", INVALID, error.message
                )
                for error in faults.errors
            ]
        )
    return Report(
        [Problem(f.location, f.level, f.lint, f.message, f.reason) for f in findings], ruleset
    )
