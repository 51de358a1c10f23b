"""From what a test file expects to `Expectation`s, with every name and number in them checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from saeguard.rules.errors import Location, RuleError, did_you_mean
from saeguard.rules.loading.document import Document, KeyPath
from saeguard.rules.model import Correlation, Rule
from saeguard.rules.phases import Phase
from saeguard.rules.recordings.offline import RecordedRequest
from saeguard.rules.testing import syntax
from saeguard.rules.testing.cases import Expectation, Kind, Place

KINDS: dict[str, Kind] = {
    "expect": "alert",
    "expect_none": "none",
    "expect_suppressed": "suppressed",
    "expect_limited": "limited",
    "expect_uncovered": "uncovered",
}


def read_expectations(
    document: Document,
    path: KeyPath,
    case: syntax.CaseEntry,
    rules: Mapping[str, Rule],
    requests: Sequence[RecordedRequest],
    errors: list[RuleError],
) -> list[Expectation]:
    """Those of the test at `path`; what is wrong with them is added to `errors`."""
    found = []
    for key, kind in KINDS.items():
        for i, entry in enumerate(getattr(case, key)):
            where = (*path, key, i)
            expectation = _expectation(kind, entry, document.value_at(where))
            found.append(expectation)
            errors += _mistakes(document, where, expectation, rules, requests)
    errors += _contradictions(found, len(requests))
    return found


def _contradictions(found: Sequence[Expectation], num_requests: int) -> Iterator[RuleError]:
    """Alerts of a rule are expected just where none are. A known gap contradicts nothing."""
    firm = [each for each in found if not each.todo]
    for none in (each for each in firm if each.kind == "none"):
        for alert in (each for each in firm if each.kind == "alert" and each.rule == none.rule):
            is_anywhere = none.request is None or num_requests == 1
            if is_anywhere or alert.request == none.request:
                where = f"line {alert.location.line} expects an alert of it there"
                yield none.location.error(f"contradiction: no alert of '{none.rule}', but {where}")
                break


def _expectation(kind: Kind, entry: syntax.ExpectationEntry, location: Location) -> Expectation:
    common = Expectation(kind, entry.rule, location, request=entry.request, todo=entry.todo)
    match entry:
        case syntax.AlertEntry():
            places = tuple(Place(Phase.parse(at.phase), at.token) for at in entry.at or ())
            count = entry.count or len(places) or 1
            return replace(common, count=count, places=places, severity=entry.severity)
        case syntax.SuppressedEntry():
            return replace(common, count=entry.count, exception=entry.by)
        case syntax.LimitedEntry():
            return replace(common, count=entry.count)
    return common


def _mistakes(
    document: Document,
    path: KeyPath,
    expectation: Expectation,
    rules: Mapping[str, Rule],
    requests: Sequence[RecordedRequest],
) -> Iterator[RuleError]:
    def at(*key: str | int) -> Location:
        return document.value_at((*path, *key))

    word = document.written_at((*path, "todo")) if document.has((*path, "todo")) else "true"
    if word.lower() not in ("true", "false"):
        meant = str(expectation.todo).lower()
        yield at("todo").error(f"todo: write {meant} instead of {word}")
    rule = rules.get(expectation.rule)
    if rule is None:
        hint = did_you_mean(expectation.rule, rules)
        yield at("rule").error(f"unknown rule '{expectation.rule}'{hint}")
        return
    names = [each.name for each in rule.exceptions]
    if expectation.exception is not None and expectation.exception not in names:
        hint = did_you_mean(expectation.exception, names)
        yield at("by").error(f"'{rule.name}' has no exception '{expectation.exception}'{hint}")
    if expectation.request is not None and expectation.request >= len(requests):
        last = f"the last one is {len(requests) - 1}"
        yield at("request").error(f"no request {expectation.request}; {last}")
        return
    if expectation.places and isinstance(rule.detection, Correlation):
        yield at("at").error(f"'{rule.name}' is a correlation: it has no token")
    if len(expectation.places) > (expectation.count or 0):
        yield at("at").error(f"{len(expectation.places)} places for {expectation.count} alert(s)")
    for i, place in enumerate(expectation.places):
        seen = [request for j, request in enumerate(requests) if expectation.request in (None, j)]
        num_tokens = max((np.count_nonzero(each.phases == place.phase) for each in seen), default=0)
        if place.token >= num_tokens:
            yield at("at", i).error(f"{place.phase} has {num_tokens} tokens, counted from 0")
