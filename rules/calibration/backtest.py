"""How often each rule matches where it should, and where it should not.

A request counts once for a rule, however often it matches there. Matches that a limit holds back
count, since a limit hides alerts of other requests; those of an exception do not.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
import numpy.typing as npt

from saeguard.rules.calibration.first_positions import NEVER, first_positions
from saeguard.rules.calibration.intervals import Rate, poisson_upper_bound
from saeguard.rules.calibration.labels import Example
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


def backtest(ruleset: RuleSet, examples: Sequence[Example]) -> list[RuleResult]:
    """The result of every rule that raises alerts in a request of its own.

    Raises:
        RecordingError: a request has no scores of a feature that the rules read.
    """
    positions = first_positions(ruleset, [example.request for example in examples])
    return [
        _result(rule.name, examples, _alerted(examples, positions[rule.name]))
        for rule in ruleset.rules
        if rule.emit and rule.name in positions
    ]


def _alerted(examples: Sequence[Example], positions: npt.NDArray[np.int64]) -> dict[str, int]:
    """Id of each request that raised an alert -> position of the first."""
    found = zip(examples, positions.tolist(), strict=True)
    return {example.label.id: position for example, position in found if position != NEVER}


def _result(rule: str, examples: Sequence[Example], alerted: dict[str, int]) -> RuleResult:
    counted = [example for example in examples if example.counts_for(rule)]
    positives = [example for example in counted if example.answer(rule)]
    negatives = [example for example in counted if not example.answer(rule)]
    hits = [example for example in positives if example.label.id in alerted]
    false_alarms = [example for example in negatives if example.label.id in alerted]
    spans = [(alerted[e.label.id], e.label.span) for e in hits if e.label.span is not None]
    num_tokens = sum(_num_observed(example) for example in negatives)
    return RuleResult(
        rule=rule,
        recall=_share(positives, alerted),
        false_alarm_rate=_share(negatives, alerted),
        precision=_share([*hits, *false_alarms], {example.label.id for example in hits}),
        num_requests=len(counted),
        num_groups=len({example.group for example in counted}),
        false_alarms_per_million=_per_million(len(false_alarms), num_tokens),
        false_alarms_per_million_high=_per_million(
            poisson_upper_bound(len(false_alarms), 0.975), num_tokens
        ),
        latencies=tuple(position - first for position, (first, _) in spans),
        to_end=tuple(end - 1 - position for position, (_, end) in spans),
        sources=tuple(_by_source(rule, counted, alerted)),
        missed=tuple(e.label.id for e in positives if e.label.id not in alerted),
        false_alarms=tuple(e.label.id for e in false_alarms),
    )


def _share(examples: Sequence[Example], alerted: Container[str]) -> Rate:
    """Of the examples those that are among the alerted."""
    hits = np.array([[example.label.id in alerted for example in examples]], np.bool_)
    weights = np.array([example.weight for example in examples])
    (rate,) = rates_of(hits, [example.group for example in examples], weights)
    return rate


def _by_source(
    rule: str, examples: Sequence[Example], alerted: Container[str]
) -> Iterable[SourceResult]:
    sides: dict[str, tuple[list[Example], list[Example]]] = {}
    for example in examples:
        of_source = sides.setdefault(example.label.source or NO_SOURCE, ([], []))
        of_source[not example.answer(rule)].append(example)
    for source, (positives, negatives) in sorted(sides.items()):
        yield SourceResult(source, _share(positives, alerted), _share(negatives, alerted))


def _num_observed(example: Example) -> int:
    return int((~np.isnan(example.request.scores)).any(axis=1).sum())


def _per_million(count: float, num_tokens: int) -> float | None:
    return 1e6 * count / num_tokens if num_tokens else None
