"""What is wrong in a rule file, and where.

RuleErrors                all that one `load_rules` call found
  RuleError, RuleError…   one finding, printed as `file:line:column: message`
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

_MANY = 100  # options that are compared closely: it is slow, and there may be many words


@dataclass(frozen=True, slots=True, order=True)
class Location:
    """A place in a file; lines and columns count from 1."""

    path: Path
    line: int = 1
    column: int = 1

    def __str__(self) -> str:
        return f"{self.path}:{self.line}:{self.column}"

    def error(self, message: str) -> RuleError:
        """A finding at this place."""
        return RuleError(self.path, self.line, self.column, message)


@dataclass(frozen=True, slots=True, order=True)
class RuleError:
    """One finding."""

    path: Path
    line: int
    column: int
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}:{self.column}: {self.message}"


class RuleErrors(Exception):
    """The rules were refused. `errors` holds every finding, ordered by place."""

    def __init__(self, errors: Iterable[RuleError]) -> None:
        self.errors = tuple(sorted(set(errors)))
        super().__init__(self.errors)

    def __str__(self) -> str:
        return "\n".join(map(str, self.errors))


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """`, did you mean 'x'?` when an option resembles the word, else nothing."""
    known = list(options)
    if len(known) > _MANY:
        alike = (o for o in known if o[:3] == word[:3] or o[-3:] == word[-3:])
        known = list(islice(alike, _MANY))
    close = difflib.get_close_matches(word, known, n=1)
    return f", did you mean '{close[0]}'?" if close else ""
