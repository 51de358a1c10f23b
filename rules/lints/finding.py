"""What lints are made of: a check with a name, and what it finds."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from typing import Literal

from saeguard.rules.errors import Location
from saeguard.rules.model import Rule, RuleSet, Signal

Level = Literal["warning", "note"]


@dataclass(frozen=True, slots=True)
class Remark:
    """What a check has to say about one place."""

    location: Location
    message: str
    rule: Location | None = None
    """Where the rule it belongs to begins."""


Check = Callable[[RuleSet, date], Iterator[Remark]]


@dataclass(frozen=True, slots=True)
class Lint:
    """A named check; the check's docstring is its help."""

    name: str
    check: Check
    level: Level = "warning"

    @property
    def help(self) -> str:
        """What it finds and what to do about it, as one paragraph."""
        return " ".join((inspect.getdoc(self.check) or "").split())


@dataclass(frozen=True, slots=True)
class Finding:
    """A remark of a lint. It is silenced when the file gives a `reason` to ignore it."""

    location: Location
    lint: str
    level: Level
    message: str
    reason: str | None = None


def about(rule: Rule, message: str) -> Remark:
    """A remark where the rule begins."""
    return Remark(rule.location, message, rule.location)


def about_signal(rule: Rule, signal: Signal, message: str) -> Remark:
    """A remark where the signal is written; that of a building block is in the block."""
    return Remark(signal.location or rule.location, message, rule.location)
