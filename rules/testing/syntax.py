"""The shape of a test file: which keys there are, and what each may hold."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from saeguard.rules.loading.shape import Owners
from saeguard.rules.loading.signal_syntax import Entry
from saeguard.rules.loading.spelling import Day, Duration, Index, Name, PhaseName, Text
from saeguard.rules.model import Severity

Positive = Annotated[int, Field(ge=1)]


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, dict) else value


def _as_rule(value: Any) -> Any:
    return {"rule": value} if isinstance(value, str) else value


class RequestEntry(Entry):
    model: Text | None = None
    tenant: Text | None = None
    lora: Text | None = None
    client: Text | None = None


class BlockEntry(Entry):
    """Successive tokens in one phase. The series are read from the document: see `streams.py`."""

    phase: PhaseName
    features: dict[str, Any] = Field(default_factory=dict)
    tokens: Positive | None = None


Stream = Annotated[list[BlockEntry], Field(min_length=1)]


class TurnEntry(Entry):
    """One of several requests."""

    request: RequestEntry = RequestEntry()
    stream: Stream
    advance: Duration | None = None
    """Time that passes before it."""


class PlaceEntry(Entry):
    phase: PhaseName
    token: Index


class ExpectationEntry(Entry):
    rule: Name
    request: Index | None = None
    todo: bool = False


class AlertEntry(ExpectationEntry):
    count: Positive | None = None
    at: Annotated[list[PlaceEntry], Field(min_length=1), BeforeValidator(_listed)] | None = None
    severity: Severity | None = None


class SuppressedEntry(ExpectationEntry):
    by: Text
    count: Index | None = None


class LimitedEntry(ExpectationEntry):
    count: Index | None = None


# A rule's name alone is enough where nothing else is to be said.
Alert = Annotated[AlertEntry, BeforeValidator(_as_rule)]
Silence = Annotated[ExpectationEntry, BeforeValidator(_as_rule)]


class CaseEntry(Entry):
    """One test: what happens, in one of three ways, and what is expected of it."""

    name: Text
    request: RequestEntry | None = None
    stream: Stream | None = None
    requests: Annotated[list[TurnEntry], Field(min_length=1)] | None = None
    recording: Text | None = None
    today: Day | None = None
    mode: Literal["strict", "loose"] = "strict"
    expect: list[Alert] = Field(default_factory=list)
    expect_none: list[Silence] = Field(default_factory=list)
    expect_suppressed: list[SuppressedEntry] = Field(default_factory=list)
    expect_limited: list[LimitedEntry] = Field(default_factory=list)
    expect_uncovered: list[Silence] = Field(default_factory=list)


class SuiteEntry(Entry):
    rules: Annotated[list[Text], Field(min_length=1)]
    tests: Annotated[list[CaseEntry], Field(min_length=1)]


OWNERS: Owners = {
    "tests": CaseEntry,
    "request": RequestEntry,
    "requests": TurnEntry,
    "stream": BlockEntry,
    "at": PlaceEntry,
    "expect": AlertEntry,
    "expect_none": ExpectationEntry,
    "expect_suppressed": SuppressedEntry,
    "expect_limited": LimitedEntry,
    "expect_uncovered": ExpectationEntry,
}
