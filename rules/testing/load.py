"""Loads a test file: read, check shape and names, build. All mistakes are reported at once."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, date, datetime, time
from pathlib import Path

from pydantic import ValidationError

from saeguard.rules.errors import RuleError, RuleErrors
from saeguard.rules.loading.document import Document, KeyPath, read_document
from saeguard.rules.loading.load import load_rules
from saeguard.rules.loading.raw import items, texts
from saeguard.rules.loading.shape import check_shape
from saeguard.rules.loading.sources import is_pack
from saeguard.rules.loading.units import parse_duration
from saeguard.rules.model import RuleSet
from saeguard.rules.recordings.offline import RecordedRequest, RecordingError
from saeguard.rules.recordings.recording import read_recordings
from saeguard.rules.scope import RequestContext
from saeguard.rules.testing import syntax
from saeguard.rules.testing.cases import Case, Suite
from saeguard.rules.testing.expectations import read_expectations
from saeguard.rules.testing.streams import StreamReader

FIRST_DAY = date(2000, 1, 1)
"""When a test without `today` happens: before the exceptions of any rule expire."""


def load_suite(path: Path) -> Suite:
    """Load a test file and the rules it names.

    Raises:
        RuleErrors: everything that is wrong with it or with its rules, each with its place.
    """
    document = read_document(path)
    entry, errors = check_shape(document, syntax.SuiteEntry, syntax.OWNERS)
    errors += _faults_of_yaml(document)
    ruleset = _load_rules(document, errors)
    if ruleset is None:
        raise RuleErrors(errors)
    entries = dict(enumerate(entry.tests)) if entry else _well_shaped(document)
    errors += _repeated_names(document, entries)
    reader = _CaseReader(document, ruleset, errors)
    cases = tuple(reader.read(("tests", i), case) for i, case in entries.items())
    if errors:
        raise RuleErrors(errors)
    return Suite(path, ruleset, cases, tuple(reader.warnings))


def _well_shaped(document: Document) -> dict[int, syntax.CaseEntry]:
    """Index -> test, where the shape is right: a mistake in one does not hide those in others."""
    entries = {}
    for i, test in enumerate(items(document.data.get("tests"))):
        with suppress(ValidationError):
            entries[i] = syntax.CaseEntry.model_validate(test)
    return entries


def _faults_of_yaml(document: Document) -> list[RuleError]:
    """Without what is no fault here: `0x40`, a number to YAML, is a series."""
    series = {
        str(document.value_at(path))
        for path in document.values
        if path[:1] == ("tests",) and "features" in path[-3:-1]
    }
    return [
        error
        for error in document.errors
        if not error.message.startswith("YAML reads")
        or f"{error.path}:{error.line}:{error.column}" not in series
    ]


def _load_rules(document: Document, errors: list[RuleError]) -> RuleSet | None:
    named = texts(document.data.get("rules"))
    found: list[str | Path] = []
    for i, item in enumerate(named):
        path = _tidy(document.path.parent / item)
        if is_pack(item) or path.exists():
            found.append(item if is_pack(item) else path)
        else:
            errors.append(document.value_at(("rules", i)).error(f"no such file: {path}"))
    if not found or len(found) < len(named):
        return None
    try:
        return load_rules(found)
    except RuleErrors as error:
        errors += error.errors
        return None


def _tidy(path: Path) -> Path:
    """Without `..` where that leads to the same file."""
    tidy = Path(os.path.normpath(path))
    return tidy if tidy.exists() and path.exists() and tidy.samefile(path) else path


def _repeated_names(
    document: Document, entries: Mapping[int, syntax.CaseEntry]
) -> Iterator[RuleError]:
    times = Counter(case.name for case in entries.values())
    for i, case in entries.items():
        if times[case.name] > 1:
            where = document.value_at(("tests", i, "name"))
            yield where.error(f"{times[case.name]} tests are called '{case.name}'")


class _CaseReader:
    """Builds the tests of one document; what is wrong with them is added to `errors`."""

    def __init__(self, document: Document, ruleset: RuleSet, errors: list[RuleError]) -> None:
        self._document = document
        self._rules = {rule.name: rule for rule in ruleset.rules}
        self._columns = ruleset.used_features()
        self._streams = StreamReader(document, ruleset, errors)
        self._errors = errors

    @property
    def warnings(self) -> list[RuleError]:
        return self._streams.warnings

    def read(self, path: KeyPath, entry: syntax.CaseEntry) -> Case:
        requests = self._requests(path, entry)
        expectations = read_expectations(
            self._document, path, entry, self._rules, requests, self._errors
        )
        if entry.mode == "loose" and not expectations:
            self._report(path, "a loose test that expects nothing cannot fail")
        return Case(
            name=entry.name,
            requests=tuple(requests),
            expectations=tuple(expectations),
            strict=entry.mode == "strict",
            location=self._document.value_at((*path, "name")),
        )

    def _requests(self, path: KeyPath, entry: syntax.CaseEntry) -> list[RecordedRequest]:
        given = [key for key in ("stream", "requests", "recording") if getattr(entry, key)]
        if len(given) != 1:
            said = " and ".join(given) or "none of them"
            self._report(path, f"a test has a stream, requests or a recording; this has {said}")
            return []
        if entry.request is not None and not entry.stream:
            self._report((*path, "request"), f"'request' does not go with '{given[0]}'")
        if entry.recording is not None:
            return self._recording((*path, "recording"), entry.recording)
        if entry.stream is not None:
            who = entry.request or syntax.RequestEntry()
            turns, paths = [syntax.TurnEntry(request=who, stream=entry.stream)], [path]
        else:
            turns = entry.requests or []
            paths = [(*path, "requests", i) for i in range(len(turns))]
        requests = []
        start = datetime.combine(entry.today or FIRST_DAY, time(), UTC)
        time_s = int(start.timestamp())
        for i, (turn, where) in enumerate(zip(turns, paths, strict=True)):
            time_s += parse_duration(turn.advance) if turn.advance else 0
            who = turn.request
            context = RequestContext(who.model or "", who.lora, who.tenant, who.client, f"r{i}")
            stream = (*where, "stream")
            try:
                requests.append(self._streams.read(stream, turn.stream, context, time_s * 10**9))
            except RecordingError as error:
                self._report(where, str(error))
        return requests

    def _recording(self, path: KeyPath, name: str) -> list[RecordedRequest]:
        try:
            requests = read_recordings(self._document.path.parent / name)
        except RecordingError as error:
            self._report(path, str(error))
            return []
        for feature in self._columns:
            if any(feature not in request.columns for request in requests):
                self._report(path, f"{name} holds no scores of the feature '{feature}'")
        return requests

    def _report(self, path: KeyPath, message: str) -> None:
        self._errors.append(self._document.value_at(path).error(message))
