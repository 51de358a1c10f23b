"""Rule tests out of verdicts: the scores of an alert's requests, and whether the rule is to fire.

The scores are those of the features that the rule reads, in the phases in which it looks; of a rule
across requests those of the rules that it counts. A true positive expects the alert; a false
positive or a benign one expects none, so that the test fails until the rules are better.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from saeguard.monitor import store
from saeguard.monitor.alert_context import same_request
from saeguard.monitor.alerts import Alert, RequestRecord
from saeguard.monitor.config import read_rules
from saeguard.monitor.errors import SaeguardError
from saeguard.monitor.recordings import recorded_request
from saeguard.monitor.verdict_test_text import Case, Judged, Turn, extent, written
from saeguard.monitor.verdicts import Said, judgements, opinions, standing
from saeguard.rules import Rule, RuleSet
from saeguard.rules.loading.sources import is_pack
from saeguard.rules.matches import Match
from saeguard.rules.model import Correlation
from saeguard.rules.phases import Phase
from saeguard.rules.recordings.offline import RecordedRequest, RecordingError, play
from saeguard.rules.scope import shortened
from saeguard.rules.testing.series import MAX_TOKENS

_S = 10**9
_DAY_NS = 86_400 * _S
_MAX_SECONDS = 99_999
"""That a test can write; what is longer it writes in minutes."""


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


def rule_test(path: Path, alert: Alert, files: RuleFiles) -> RuleTest:
    """The test that the verdicts on an alert make.

    Args:
        path: of the alert store.

    Raises:
        NoRuleTest: there is no verdict, or too little was recorded; says which.
        ConfigError: the rules cannot be read.
        StoreError: the store cannot be read.
    """
    if alert.kind == "health":
        raise NoRuleTest("the alert is about the monitor itself: no rule raised it")
    judged = _judge(path, alert)
    ruleset = read_rules(files.items)
    rules = list(_with_counted(ruleset, alert.rule_name))
    try:
        case = Case(judged, ruleset, list(_turns(path, alert, rules)))
        if alert.kind == "match":
            _check_extent(case)
        if case.has_same_rules:
            _check_replay(case, rules)
    except RecordingError as error:
        raise NoRuleTest(f"what is recorded cannot be played: {error}") from error
    return RuleTest(
        name=f"{alert.rule_name}-{alert.id.rpartition('-')[2]}_test.yaml",
        text=written(case, files.written),
        expects_alert=bool(case.right),
    )


def _judge(path: Path, alert: Alert) -> list[Judged]:
    """The alert first, then the others that the same rule raised in its request."""
    twins = [
        each
        for each in same_request(path, alert)
        if each.rule_name == alert.rule_name and each.kind == "match"
    ]
    said = standing(path, [each.id for each in (alert, *twins)])
    return [_judge_one(each, said.get(each.id, []), alert) for each in (alert, *twins)]


def _judge_one(alert: Alert, said: Sequence[Said], asked: Alert) -> Judged:
    answers = opinions(said)
    which = "it" if alert is asked else f"its request's other alert of the rule, {alert.id},"
    if not answers:
        raise NoRuleTest(f"nobody has said of {which} whether the rule was right to fire")
    if len(answers) > 1:
        raise NoRuleTest(f"the reviewers of {which} disagree")
    return Judged(alert, answers.pop(), judgements(said))


def _with_counted(ruleset: RuleSet, name: str) -> Iterator[Rule]:
    """The rule, and those whose matches it counts."""
    rules = {rule.name: rule for rule in ruleset.rules}
    if name not in rules:
        raise NoRuleTest(f"the rules have no rule {name}", "give those that raised it")
    yield rules[name]
    detection = rules[name].detection
    if isinstance(detection, Correlation):
        for counted in detection.rules:
            yield from _with_counted(ruleset, counted)


def _turns(path: Path, alert: Alert, rules: Sequence[Rule]) -> Iterator[Turn]:
    """The requests that made the alert, with the seconds between them. They happen on the day of
    the alert, for exceptions expire.
    """
    first_ns = alert.time_ns // _DAY_NS * _DAY_NS
    times_ns = _match_times(alert)
    begin_ns, now_s = min(times_ns.values()), 0
    for req_id, time_ns in times_ns.items():
        advance_s = (time_ns - begin_ns) // _S - now_s
        if advance_s > _MAX_SECONDS:
            advance_s -= advance_s % 60
        now_s += advance_s
        record = store.get_request(path, shortened(req_id))
        if record is None:
            raise NoRuleTest(
                f"nothing is recorded of the request {req_id}: it still runs, or made room for "
                "newer ones"
            )
        yield Turn(
            record, replace(_stream(rules, record), time_ns=first_ns + now_s * _S), advance_s
        )


def _match_times(alert: Alert) -> dict[str, int]:
    """Of each request that made the alert the time of its first match, in their order."""
    if alert.correlation is None:
        return {alert.req_id: alert.time_ns}
    matches = alert.correlation.matches
    if alert.correlation.count > len(matches):
        raise NoRuleTest(
            f"the rule counted {alert.correlation.count}, and the alert names only the newest "
            f"{len(matches)} of them"
        )
    found: dict[str, int] = {}
    for match in sorted(matches, key=lambda match: match.time_ns):
        found.setdefault(match.req_id, match.time_ns)
    return found


def _stream(rules: Sequence[Rule], record: RequestRecord) -> RecordedRequest:
    """What is recorded of the features that the rules read; 0 in phases in which none looks."""
    whole = recorded_request(record)
    features = tuple(dict.fromkeys(name for rule in rules for name in rule.features))
    if missing := [name for name in features if name not in whole.columns]:
        raise NoRuleTest(f"the rule reads {', '.join(missing)}, which was not watched then")
    if len(whole.positions) > MAX_TOKENS:
        raise NoRuleTest(f"a rule test has at most {MAX_TOKENS:,} tokens, the request has more")
    phases = frozenset[Phase]().union(*(rule.phases for rule in rules))
    scores = whole.scores[:, [whole.columns.index(name) for name in features]].copy()
    scores[~np.isin(whole.phases, [int(phase) for phase in phases])] = 0.0
    positions = np.arange(len(scores), dtype=np.int32)
    return replace(whole, columns=features, scores=scores, positions=positions, token_ids=None)


def _check_extent(case: Case) -> None:
    record = case.turns[0].record
    first, end = record.first_recorded, record.first_recorded + len(record.phases)
    for alert in (each.alert for each in case.judged):
        if not (first <= alert.first_position and alert.position < end):
            raise NoRuleTest(
                f"the rule fired on tokens {alert.first_position} to {alert.position}; recorded "
                f"are {extent(record)}",
                "raise record_tokens in saeguard.yaml for alerts to come",
            )


def _check_replay(case: Case, rules: Sequence[Rule]) -> None:
    """The very rules that raised the alerts raise them again, and no others."""
    fired = set(_fired(case, rules))
    raised = {_row(case, each.alert) for each in case.judged}
    recorded = ", ".join(extent(turn.record) for turn in case.turns)
    if raised - fired:
        raise NoRuleTest(
            f"played again, the rule does not fire{_at(case, raised - fired)}: what is recorded "
            f"({recorded}) is less than what it fired on"
        )
    if case.right and fired - raised:
        raise NoRuleTest(
            f"played again, the rule also fires{_at(case, fired - raised)}, of which there is no "
            "alert: something outside of the request held it back"
        )


def _fired(case: Case, rules: Sequence[Rule]) -> Iterator[int]:
    """Rows of the stream on which the alert's rule raises an alert; for a rule across requests 0,
    1, ... for each time it does.
    """
    ruleset = replace(case.ruleset, rules=tuple(dict.fromkeys(rules)))
    times = 0
    for decision in play(ruleset, [turn.stream for turn in case.turns]):
        if decision.outcome != "alert" or decision.match.rule.name != case.alert.rule_name:
            continue
        yield decision.match.position if isinstance(decision.match, Match) else times
        times += 1


def _row(case: Case, alert: Alert) -> int:
    return 0 if alert.kind == "correlation" else case.row(alert)


def _at(case: Case, rows: set[int]) -> str:
    if case.alert.kind == "correlation":
        return ""
    return f" at token {min(rows) + case.turns[0].record.first_recorded}"
