"""How a rule test that comes from verdicts is written: where it is from, then YAML as people would
write it.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby

import numpy as np
import yaml

from saeguard.monitor.alerts import PHASES, Alert, RequestRecord
from saeguard.monitor.logging import printable
from saeguard.monitor.verdicts import Said
from saeguard.rules import RuleSet
from saeguard.rules.loading.units import format_duration
from saeguard.rules.recordings.offline import RecordedRequest
from saeguard.rules.testing.series import format_series

_WIDTH = 100
_MAX_COMMENT = 200


@dataclass(frozen=True, slots=True)
class Judged:
    """An alert, and whether it was right."""

    alert: Alert
    is_right: bool
    said: list[Said]


@dataclass(frozen=True, slots=True)
class Turn:
    """A request that the test plays."""

    record: RequestRecord
    stream: RecordedRequest
    """What the rules read of the record, its tokens counted from 0."""
    advance_s: int
    """Since the turn before."""


@dataclass(frozen=True, slots=True)
class Case:
    """All that the test is made of."""

    judged: list[Judged]
    """The alert first, then the others that its rule raised in its request."""
    ruleset: RuleSet
    turns: list[Turn]
    """Several for a rule across requests."""

    @property
    def alert(self) -> Alert:
        return self.judged[0].alert

    @property
    def right(self) -> list[Alert]:
        """Those that are to come again, in their order."""
        found = [each.alert for each in self.judged if each.is_right]
        return sorted(found, key=lambda alert: alert.position)

    @property
    def has_same_rules(self) -> bool:
        return self.ruleset.sha256 == self.alert.ruleset_sha256

    def row(self, alert: Alert) -> int:
        """Of its token in the stream of the only turn."""
        return alert.position - self.turns[0].record.first_recorded


def written(case: Case, rules: Sequence[str]) -> str:
    """The test file.

    Args:
        rules: as the file is to name them.
    """
    return "\n".join([*_provenance(case), *_test(case, rules), ""])


def extent(record: RequestRecord) -> str:
    """Which of a request's tokens are recorded, for people."""
    if not record.phases:
        return f"none of its {record.num_tokens} tokens"
    last = record.first_recorded + len(record.phases) - 1
    return f"tokens {record.first_recorded} to {last} of {record.num_tokens}"


def _provenance(case: Case) -> Iterator[str]:
    """Comments that say where the test comes from."""
    alert = case.alert
    yield f"# Made by saeguard from the verdict on an alert of {alert.rule_name}."
    for each in case.judged:
        where = "" if alert.kind == "correlation" else f", token {each.alert.position}"
        yield f"# Alert {each.alert.id}, {_moment(each.alert.time_ns)}{where}"
        yield from (f"#   {_words(said)}" for said in each.said)
    name = printable(f"{alert.ruleset_name} {alert.ruleset_version}")
    yield f"# Raised by the rule set {name}, sha256 {alert.ruleset_sha256[:12]}."
    if not case.has_same_rules:
        yield f"# The rules have changed since: this was made with {case.ruleset.sha256[:12]}."
    records = [turn.record for turn in case.turns]
    yield f"# Scores of {', '.join(map(extent, records))}, in the phases in which the rules look."
    if any(record.first_recorded for record in records):
        yield "# What averages and sequences had from earlier tokens is not in it."
    if not case.right:
        yield "# It fails until the rule is quiet here."


def _words(said: Said) -> str:
    by = f" by {said.reviewer}" if said.reviewer else ""
    comment = textwrap.shorten(said.comment, _MAX_COMMENT, placeholder=" …")
    told = f": {comment}" if comment else ""
    return printable(f"{said.verdict.replace('_', ' ')}{by} on {_moment(said.time_ns)[:10]}{told}")


def _moment(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns // 10**9, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _test(case: Case, rules: Sequence[str]) -> Iterator[str]:
    alert = case.alert
    yield f"rules: [{', '.join(map(_quoted, rules))}]"
    yield "tests:"
    yield f"  - name: {_quoted(f'alert {alert.id} of {alert.rule_name}')}"
    yield f"    today: {_moment(alert.time_ns)[:10]}"
    yield "    mode: loose # other rules have tests of their own"
    if alert.kind == "correlation":
        yield "    requests:"
        for turn in case.turns:
            first, *more = _request(turn)
            yield f"      - {first}"
            yield from (f"        {line}" for line in more)
    else:
        yield from (f"    {line}" for line in _request(case.turns[0]))
    yield from _expectation(case)


def _request(turn: Turn) -> Iterator[str]:
    context = turn.stream.context
    names = ("model", "tenant", "lora", "client")
    who = [f"{name}: {_quoted(value)}" for name in names if (value := getattr(context, name))]
    if who:
        yield f"request: {{{', '.join(who)}}}"
    if turn.advance_s:
        yield f"advance: {format_duration(turn.advance_s)}"
    yield "stream:"
    yield from _blocks(turn.stream)


def _blocks(stream: RecordedRequest) -> Iterator[str]:
    """One for each unbroken stretch of a phase; a feature that is 0 all along is left out."""
    begin = 0
    for code, run in groupby(stream.phases.tolist()):
        end = begin + len([*run])
        yield f"  - phase: {PHASES[code]}"
        yield f"    tokens: {end - begin}"
        columns = stream.scores[begin:end].T
        features = [(n, c) for n, c in zip(stream.columns, columns, strict=True) if c.any()]
        if features:
            yield "    features:"
        for name, scores in features:
            yield from textwrap.wrap(
                f"{name}: {format_series(scores)}", _WIDTH - 8, initial_indent=" " * 6,
                subsequent_indent=" " * 8, break_long_words=False, break_on_hyphens=False,
            )  # fmt: skip
        begin = end


def _expectation(case: Case) -> Iterator[str]:
    """Tokens are named only where some alerts were right and others were not."""
    rule, right = case.alert.rule_name, case.right
    if not right:
        yield f"    expect_none: [{rule}]"
        return
    yield "    expect:"
    yield f"      - rule: {rule}"
    yield f"        count: {len(right)}"
    if len(right) < len(case.judged):
        yield "        at:"
        for alert in right:
            yield f"          - {{phase: {alert.phase}, token: {_token(case, alert)}}}"


def _token(case: Case, alert: Alert) -> int:
    """Counted within its phase."""
    phases, row = case.turns[0].stream.phases, case.row(alert)
    return int(np.count_nonzero(phases[:row] == phases[row]))


def _quoted(text: str) -> str:
    """Names come from clients: a YAML scalar on one line, of ASCII characters."""
    return yaml.safe_dump(text, default_style='"', width=math.inf).strip()
