"""How often each rule matches where it should, and where it should not.

A request counts once for a rule, however often it matches there. Matches that a limit holds back
count, since a limit hides alerts of other requests; those of an exception do not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from statistics import median

import numpy as np

from saeguard.rules.calibration.first_positions import NEVER, first_positions
from saeguard.rules.calibration.intervals import Rate, poisson_upper_bound
from saeguard.rules.calibration.labels import Answered, Example, Label
from saeguard.rules.calibration.resampling import rates_of
from saeguard.rules.model import RuleSet

NO_SOURCE = "-"


@dataclass(frozen=True, slots=True)
class SourceResult:
    """Requests of one source."""

    source: str
    positives: Rate
    """That raised an alert, of those that should."""
    negatives: Rate
    """That raised one, of those that should not."""

    def is_like(self, patterns: Sequence[str]) -> bool:
        return _is_like(self.source, patterns)


@dataclass(frozen=True, slots=True)
class RuleResult:
    """One rule on all requests whose labels concern it. Counted are requests, not alerts."""

    rule: str
    recall: Rate
    false_alarm_rate: Rate
    precision: Rate
    """As it is among these requests; with other shares of positives it is another."""
    num_requests: int
    """That are counted; with weights they stand for more."""
    num_groups: int
    false_alarms_per_million: float | None
    """False alarms for a million tokens of negatives; None of no tokens."""
    false_alarms_per_million_high: float | None
    """Above which it is with 2.5 % probability at most."""
    latencies: tuple[int, ...]
    """Tokens from the first of the span to the first alert; negative before it."""
    to_end: tuple[int, ...]
    """Tokens from the first alert to the last of the span; negative after it."""
    hard_negatives: Rate
    """That raised an alert, of the negatives of sources that are hard."""
    sources: tuple[SourceResult, ...]
    missed: tuple[str, ...]
    """Ids of the positives without an alert."""
    false_alarms: tuple[str, ...]
    """Ids of the negatives with one."""

    @property
    def has_groups(self) -> bool:
        """Whether some requests are alike, and the intervals are therefore by groups."""
        return self.num_groups < self.num_requests

    @property
    def median_latency(self) -> float | None:
        return median(self.latencies) if self.latencies else None

    @property
    def median_to_end(self) -> float | None:
        return median(self.to_end) if self.to_end else None


@dataclass(frozen=True, slots=True)
class Trial(Answered):
    """What came of one example; without its scores, of which there may be too many to keep."""

    label: Label
    answers: bool | Mapping[str, bool]
    read_from: str
    """Where the recording of the request was read."""
    watchlist: str
    """The recording's."""
    num_observed: int
    """Tokens with scores."""
    alerts: Mapping[str, int]
    """Rule -> position of its first match."""


def backtest(ruleset: RuleSet, examples: Sequence[Example]) -> list[RuleResult]:
    """The result of every rule that raises alerts in a request of its own.

    Raises:
        RecordingError: a request has no scores of a feature that the rules read.
    """
    return count_trials(ruleset, try_rules(ruleset, examples))


def try_rules(ruleset: RuleSet, examples: Sequence[Example]) -> list[Trial]:
    """One of each example; it is the same whatever other examples there are.

    Raises:
        RecordingError: a request has no scores of a feature that the rules read.
    """
    found = first_positions(ruleset, [example.request for example in examples])
    return [
        Trial(
            label=example.label,
            answers=example.answers,
            read_from=example.request.source,
            watchlist=example.request.watchlist,
            num_observed=int((~np.isnan(example.request.scores)).any(axis=1).sum()),
            alerts={rule: int(first[i]) for rule, first in found.items() if first[i] != NEVER},
        )
        for i, example in enumerate(examples)
    ]


def count_trials(
    ruleset: RuleSet, trials: Sequence[Trial], hard: Sequence[str] = ()
) -> list[RuleResult]:
    """The result of every rule that raises alerts in a request of its own.

    Args:
        hard: patterns of the sources that are hard negatives, such as `hard-*`.
    """
    rules = [rule.name for rule in ruleset.rules if rule.emit and rule.signals]
    return [_result(rule, trials, hard) for rule in rules]


def _result(rule: str, trials: Sequence[Trial], hard: Sequence[str]) -> RuleResult:
    counted = [trial for trial in trials if trial.counts_for(rule)]
    positives = [trial for trial in counted if trial.answer(rule)]
    negatives = [trial for trial in counted if not trial.answer(rule)]
    hits = [trial for trial in positives if rule in trial.alerts]
    false_alarms = [trial for trial in negatives if rule in trial.alerts]
    spans = [(trial.alerts[rule], trial.label.span) for trial in hits if trial.label.span]
    num_tokens = sum(trial.num_observed for trial in negatives)
    return RuleResult(
        rule=rule,
        recall=_alerted(rule, positives),
        false_alarm_rate=_alerted(rule, negatives),
        precision=_share([*hits, *false_alarms], [True] * len(hits) + [False] * len(false_alarms)),
        num_requests=len(counted),
        num_groups=len({trial.group for trial in counted}),
        false_alarms_per_million=_per_million(len(false_alarms), num_tokens),
        false_alarms_per_million_high=_per_million(
            poisson_upper_bound(len(false_alarms), 0.975), num_tokens
        ),
        latencies=tuple(position - first for position, (first, _) in spans),
        to_end=tuple(end - 1 - position for position, (_, end) in spans),
        hard_negatives=_alerted(rule, [t for t in negatives if _is_like(_source(t), hard)]),
        sources=tuple(_by_source(rule, counted)),
        missed=tuple(trial.label.id for trial in positives if rule not in trial.alerts),
        false_alarms=tuple(trial.label.id for trial in false_alarms),
    )


def _alerted(rule: str, trials: Sequence[Trial]) -> Rate:
    """Those in which the rule raised an alert."""
    return _share(trials, [rule in trial.alerts for trial in trials])


def _share(trials: Sequence[Trial], is_hit: Sequence[bool]) -> Rate:
    weights = np.array([trial.weight for trial in trials])
    (rate,) = rates_of(np.array([is_hit], np.bool_), [trial.group for trial in trials], weights)
    return rate


def _by_source(rule: str, trials: Sequence[Trial]) -> Iterable[SourceResult]:
    sides: dict[str, tuple[list[Trial], list[Trial]]] = {}
    for trial in trials:
        of_source = sides.setdefault(_source(trial), ([], []))
        of_source[not trial.answer(rule)].append(trial)
    for source, (positives, negatives) in sorted(sides.items()):
        yield SourceResult(source, _alerted(rule, positives), _alerted(rule, negatives))


def _source(trial: Trial) -> str:
    return trial.label.source or NO_SOURCE


def _is_like(source: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(source, pattern) for pattern in patterns)


def _per_million(count: float, num_tokens: int) -> float | None:
    return 1e6 * count / num_tokens if num_tokens else None
