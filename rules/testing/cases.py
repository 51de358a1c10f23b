"""A loaded test file: rules, and tests of them. Everything here is immutable.

Suite
  ruleset
  cases       Case
    requests      RecordedRequest   what happens, one request after the other
    expectations  Expectation       what is to come of it
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from saeguard.rules.errors import Location, RuleError
from saeguard.rules.model import RuleSet, Severity
from saeguard.rules.phases import Phase
from saeguard.rules.recordings.offline import RecordedRequest

Kind = Literal["alert", "none", "suppressed", "limited", "uncovered"]


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A token of a request, counted within its phase and from 0."""

    phase: Phase
    token: int

    def __str__(self) -> str:
        return f"{self.phase} token {self.token}"


@dataclass(frozen=True, slots=True)
class Expectation:
    """What is to become of a rule's matches."""

    kind: Kind
    rule: str
    location: Location
    count: int | None = None
    """So many; None: at least one. An alert without a count is exactly one."""
    places: tuple[Place, ...] = ()
    severity: Severity | None = None
    request: int | None = None
    """Only those in this request of the test; None: in any."""
    exception: str | None = None
    todo: bool = False
    """A known gap: that it fails is no failure, that it holds is one."""


@dataclass(frozen=True, slots=True)
class Case:
    """One test."""

    name: str
    requests: tuple[RecordedRequest, ...]
    expectations: tuple[Expectation, ...]
    strict: bool
    """An alert that no expectation lists is a failure."""
    location: Location

    @property
    def has_several(self) -> bool:
        """Whether a place alone does not tell the request."""
        return len(self.requests) > 1


@dataclass(frozen=True, slots=True)
class Suite:
    """One test file."""

    path: Path
    ruleset: RuleSet
    cases: tuple[Case, ...] = field(repr=False)
    warnings: tuple[RuleError, ...] = ()
    """What is in vain, and makes no test fail."""
