"""Rule tests out of verdicts: the scores of an alert's request, and whether the rule is to fire.

The scores are those of the features that the rule reads, in the phases in which it looks. A true
positive expects the alert; a false positive or a benign one expects none, so that the test fails
until the rules are better.
"""

from __future__ import annotations

import math
import os
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path

import numpy as np
import yaml

from saeguard.monitor import store
from saeguard.monitor.alert_context import same_request
from saeguard.monitor.alerts import PHASES, Alert, RequestRecord
from saeguard.monitor.config import read_rules
from saeguard.monitor.errors import SaeguardError
from saeguard.monitor.logging import printable
from saeguard.monitor.recordings import recorded_request
from saeguard.monitor.verdicts import Said, judgements, opinions, standing
from saeguard.rules import Rule, RuleSet
from saeguard.rules.loading.sources import is_pack
from saeguard.rules.matches import Match
from saeguard.rules.recordings.offline import RecordedRequest, RecordingError, play
from saeguard.rules.testing.series import MAX_TOKENS, format_series

_WIDTH = 100
_MAX_COMMENT = 200
_DAY_S = 86_400


class NoRuleTest(SaeguardError):
    """The alert cannot be made a rule test."""


@dataclass(frozen=True, slots=True)
class RuleFiles:
    """The rules that tests are made for."""

    items: tuple[str | Path, ...]
    """Files, directories and packs."""
    folder: Path
    """In which the tests are to lie: test files name rules relative to themselves."""

    @property
    def written(self) -> list[str]:
        """As a test file in the folder names them."""
        return [
            str(item) if is_pack(item) else os.path.relpath(item, self.folder)
            for item in self.items
        ]


@dataclass(frozen=True, slots=True)
class RuleTest:
    """A test file."""

    name: str
    """The same for the same alert."""
    text: str
    expects_alert: bool


@dataclass(frozen=True, slots=True)
class _Judged:
    """An alert, and whether it was right."""

    alert: Alert
    is_right: bool
    said: list[Said]


@dataclass(frozen=True, slots=True)
class _Case:
    """All that the test is made of."""

    judged: list[_Judged]
    """The alert first, then the others that its rule raised in its request."""
    record: RequestRecord
    ruleset: RuleSet
    stream: RecordedRequest
    """What the rule reads of the record, its tokens counted from 0."""

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
        """Of its token in the stream."""
        return alert.position - self.record.first_recorded


def rule_test(path: Path, alert: Alert, files: RuleFiles) -> RuleTest:
    """The test that the verdicts on an alert make.

    Args:
        path: of the alert store.

    Raises:
        NoRuleTest: there is no verdict, or too little was recorded; says which.
        ConfigError: the rules cannot be read.
        StoreError: the store cannot be read.
    """
    record = _record(path, alert)
    judged = _judge(path, alert)
    for each in judged:
        _check_extent(each.alert, record)
    ruleset = read_rules(files.items)
    rule = _rule(ruleset, alert)
    try:
        case = _Case(judged, record, ruleset, _stream(rule, record, alert))
        if case.has_same_rules:
            _check_replay(case, rule)
    except RecordingError as error:
        raise NoRuleTest(f"the record of the request cannot be played: {error}") from error
    return RuleTest(
        name=f"{alert.rule_name}-{alert.id.rpartition('-')[2]}_test.yaml",
        text="\n".join([*_provenance(case), *_test(case, files.written), ""]),
        expects_alert=bool(case.right),
    )


def _record(path: Path, alert: Alert) -> RequestRecord:
    if alert.kind == "health":
        raise NoRuleTest("the alert is about the monitor itself: no rule raised it")
    if alert.kind == "correlation":
        raise NoRuleTest(
            "the rule counts matches across requests, and a test of it needs them all",
            "write one with `requests:`, see docs/rule-tests.md",
        )
    record = store.get_request(path, alert.req_id)
    if record is None:
        raise NoRuleTest(
            "nothing is recorded of the request: it still runs, or made room for newer ones"
        )
    return record


def _check_extent(alert: Alert, record: RequestRecord) -> None:
    first, end = record.first_recorded, record.first_recorded + len(record.phases)
    if not (first <= alert.first_position and alert.position < end):
        raise NoRuleTest(
            f"the rule fired on tokens {alert.first_position} to {alert.position}; recorded are "
            f"{_extent(record)}",
            "raise record_tokens in saeguard.yaml for alerts to come",
        )


def _extent(record: RequestRecord) -> str:
    if not record.phases:
        return f"none of its {record.num_tokens} tokens"
    last = record.first_recorded + len(record.phases) - 1
    return f"tokens {record.first_recorded} to {last} of {record.num_tokens}"


def _judge(path: Path, alert: Alert) -> list[_Judged]:
    """The alert first, then the others that the same rule raised in its request."""
    others = [each for each in same_request(path, alert) if each.rule_name == alert.rule_name]
    others = [each for each in others if each.kind == alert.kind]
    said = standing(path, [each.id for each in (alert, *others)])
    return [_judge_one(each, said.get(each.id, []), alert) for each in (alert, *others)]


def _judge_one(alert: Alert, said: Sequence[Said], asked: Alert) -> _Judged:
    answers = opinions(said)
    which = "it" if alert is asked else f"its request's other alert of the rule, {alert.id},"
    if not answers:
        raise NoRuleTest(f"nobody has said of {which} whether the rule was right to fire")
    if len(answers) > 1:
        raise NoRuleTest(f"the reviewers of {which} disagree")
    return _Judged(alert, answers.pop(), judgements(said))


def _rule(ruleset: RuleSet, alert: Alert) -> Rule:
    for rule in ruleset.rules:
        if rule.name == alert.rule_name:
            return rule
    raise NoRuleTest(f"the rules have no rule {alert.rule_name}", "give those that raised it")


def _stream(rule: Rule, record: RequestRecord, alert: Alert) -> RecordedRequest:
    """What is recorded of the features that the rule reads; 0 in phases in which it does not look.
    It happens on the day of the alert, for exceptions expire.
    """
    whole = recorded_request(record)
    if missing := [name for name in rule.features if name not in whole.columns]:
        raise NoRuleTest(f"the rule reads {', '.join(missing)}, which was not watched then")
    if len(whole.positions) > MAX_TOKENS:
        raise NoRuleTest(f"a rule test has at most {MAX_TOKENS:,} tokens, the request has more")
    scores = whole.scores[:, [whole.columns.index(name) for name in rule.features]].copy()
    scores[~np.isin(whole.phases, [int(phase) for phase in rule.phases])] = 0.0
    return replace(
        whole,
        columns=rule.features,
        scores=scores,
        positions=np.arange(len(scores), dtype=np.int32),
        token_ids=None,
        time_ns=alert.time_ns // 10**9 // _DAY_S * _DAY_S * 10**9,
    )


def _check_replay(case: _Case, rule: Rule) -> None:
    """The very rules that raised the alerts raise them again, and no others."""
    decisions = play(replace(case.ruleset, rules=(rule,)), [case.stream])
    fired = {
        decision.match.position + case.record.first_recorded
        for decision in decisions
        if decision.outcome == "alert" and isinstance(decision.match, Match)
    }
    raised = {each.alert.position for each in case.judged}
    if lost := raised - fired:
        raise NoRuleTest(
            f"played again, the rule does not fire at token {min(lost)}: what is recorded "
            f"({_extent(case.record)}) is less than what it fired on"
        )
    if case.right and (more := fired - raised):
        raise NoRuleTest(
            f"played again, the rule also fires at token {min(more)}, of which there is no alert: "
            "something outside of the request held it back"
        )


def _provenance(case: _Case) -> Iterator[str]:
    """Comments that say where the test comes from."""
    alert = case.alert
    yield f"# Made by saeguard from the verdict on an alert of {alert.rule_name}."
    for each in case.judged:
        yield f"# Alert {each.alert.id}, {_moment(each.alert.time_ns)}, token {each.alert.position}"
        yield from (f"#   {_words(said)}" for said in each.said)
    name = printable(f"{alert.ruleset_name} {alert.ruleset_version}")
    yield f"# Raised by the rule set {name}, sha256 {alert.ruleset_sha256[:12]}."
    if not case.has_same_rules:
        yield f"# The rules have changed since: this was made with {case.ruleset.sha256[:12]}."
    yield f"# Scores of {_extent(case.record)}, in the phases in which the rule looks."
    if case.record.first_recorded:
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


def _test(case: _Case, rules: Sequence[str]) -> Iterator[str]:
    alert, context = case.alert, case.stream.context
    names = ("model", "tenant", "lora", "client")
    who = {name: value for name in names if (value := getattr(context, name))}
    yield f"rules: [{', '.join(map(_quoted, rules))}]"
    yield "tests:"
    yield f"  - name: {_quoted(f'alert {alert.id} of {alert.rule_name}')}"
    if who:
        yield "    request:"
        yield from (f"      {name}: {_quoted(value)}" for name, value in who.items())
    yield f"    today: {_moment(case.stream.time_ns)[:10]}"
    yield "    mode: loose # other rules have tests of their own"
    yield "    stream:"
    yield from _blocks(case.stream)
    yield from _expectation(case)


def _blocks(stream: RecordedRequest) -> Iterator[str]:
    """One for each unbroken stretch of a phase; a feature that is 0 all along is left out."""
    begin = 0
    for code, run in groupby(stream.phases.tolist()):
        end = begin + len([*run])
        yield f"      - phase: {PHASES[code]}"
        yield f"        tokens: {end - begin}"
        columns = stream.scores[begin:end].T
        features = [(n, c) for n, c in zip(stream.columns, columns, strict=True) if c.any()]
        if features:
            yield "        features:"
        for name, scores in features:
            written = f"{name}: {format_series(scores)}"
            yield textwrap.fill(
                written, _WIDTH, initial_indent=" " * 10, subsequent_indent=" " * 12,
                break_long_words=False, break_on_hyphens=False,
            )  # fmt: skip
        begin = end


def _expectation(case: _Case) -> Iterator[str]:
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


def _token(case: _Case, alert: Alert) -> int:
    """Counted within its phase."""
    row = case.row(alert)
    return int(np.count_nonzero(case.stream.phases[:row] == case.stream.phases[row]))


def _quoted(text: str) -> str:
    """Names come from clients: a YAML scalar on one line, of ASCII characters."""
    return yaml.safe_dump(text, default_style='"', width=math.inf).strip()
