"""What a rule would do at every threshold of one of its signals.

The rule runs in many copies at once, in the engine that serves; so it holds for any aggregate,
condition or sequence, and nothing is computed twice in two ways.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from saeguard.rules.calibration.first_positions import NEVER, first_positions
from saeguard.rules.calibration.labels import Example
from saeguard.rules.conditions import names_in
from saeguard.rules.model import Rule, RuleSet, Signal, StepSequence
from saeguard.rules.testing.derive import own_signals, wanted_truths, with_rules

_NUM_THRESHOLDS = 200
_DIGITS = 4
_LONG = 1 << 40
"""Tokens for which a match goes on: where the first one is goes by nothing else, and those after it
would be most of the work."""
_POWERS = 2.0 ** np.arange(-120.0, 121.0, 8.0)
"""With which it begins: from next to 0 to nearly the largest float32, 3e38."""


class CannotSweep(ValueError):
    """The rule has no signal whose threshold alone makes it stricter; the message says why."""


@dataclass(frozen=True, slots=True, eq=False)
class Sweep:
    """Thresholds, the strictest first, and where the rule first matches at each."""

    rule: Rule
    signal: Signal
    thresholds: npt.NDArray[np.float64]
    """[thresholds]"""
    positions: npt.NDArray[np.int64] = field(repr=False)
    """[thresholds, examples]; `NEVER` where the rule does not match."""

    @property
    def matched(self) -> npt.NDArray[np.bool_]:
        """[thresholds, examples]"""
        return np.asarray(self.positions != NEVER)

    @property
    def is_monotone(self) -> bool:
        """Whether every looser threshold kept all matches."""
        return bool((np.diff(self.matched.astype(np.int8), axis=0) >= 0).all())


def find_signal(rule: Rule, name: str | None = None) -> Signal:
    """The signal whose threshold can be set: the one that is named, or the only one there is.

    Raises:
        CannotSweep: there is no such signal, or several and none was named; or it is one that
            the rule also wants false, or that is compared with two numbers.
    """
    signals = {signal.name: signal for signal in own_signals(rule)}
    if not signals:
        raise CannotSweep(f"{rule.name}: it has no signals of its own")
    usable = [signal.name for signal in signals.values() if _is_usable(rule, signal)]
    if name is None:
        if len(usable) == 1:
            return signals[usable[0]]
        raise CannotSweep(
            f"{rule.name}: say which signal: {', '.join(usable) or 'none can be set'}"
        )
    if name not in signals:
        raise CannotSweep(f"{rule.name}: no signal '{name}'; it has {', '.join(signals)}")
    if name not in usable:
        raise CannotSweep(
            f"{rule.name}: the threshold of '{name}' does not make the rule stricter in one "
            f"direction: it is compared with two numbers, or the rule wants it false somewhere"
        )
    return signals[name]


def _is_usable(rule: Rule, signal: Signal) -> bool:
    """Whether a stricter threshold can only take matches away."""
    detection = rule.detection
    unless = detection.unless if isinstance(detection, StepSequence) else None
    is_cancelling = unless is not None and signal.name in {n.name for n in names_in(unless.when)}
    is_wanted = wanted_truths(rule).get(signal.name) == {True}
    return signal.upper is None and is_wanted and not is_cancelling


def sweep(ruleset: RuleSet, rule: Rule, signal: Signal, examples: Sequence[Example]) -> Sweep:
    """Try thresholds between that at which the rule matches nowhere and the loosest that matters.

    Most of them are where they decide something, whatever the scale of the scores is.

    Raises:
        RecordingError: a request has no scores of a feature that the rules read.
    """
    run = _Runs(ruleset, rule, signal, examples)
    rises = signal.comparison in ("gt", "gte")
    deciding = _deciding(run, np.array([*-_POWERS[::-1], 0.0, *_POWERS]))
    deciding = _deciding(run, _doublings(deciding))
    values = {float(f"{value:.{_DIGITS}g}") for value in _fine(deciding, rises)}
    thresholds = np.array(sorted(values | {signal.threshold}, reverse=rises))
    return Sweep(rule, signal, thresholds, run.positions_at(thresholds))


@dataclass(frozen=True, slots=True)
class _Interval:
    """Between two thresholds."""

    low: float
    high: float
    num_decided: int
    """Examples in which the rule matches at one of its ends only."""

    @property
    def is_next_to_zero(self) -> bool:
        return max(-self.low, self.high) <= float(_POWERS[0])


def _deciding(run: _Runs, thresholds: npt.NDArray[np.float64]) -> list[_Interval]:
    """The intervals between neighbouring thresholds in which something is decided."""
    matched = run.positions_at(thresholds) != NEVER
    counts = (matched[1:] != matched[:-1]).sum(axis=1)
    found = zip(thresholds[:-1].tolist(), thresholds[1:].tolist(), counts.tolist(), strict=True)
    return [_Interval(low, high, count) for low, high, count in found if count]


def _doublings(intervals: Sequence[_Interval]) -> npt.NDArray[np.float64]:
    """The ends of the intervals, and all powers of two within."""
    found = {0.0} | {end for each in intervals for end in (each.low, each.high)}
    for each in intervals:
        if not each.is_next_to_zero:
            near, far = sorted((abs(each.low), abs(each.high)))
            powers = 2.0 ** np.arange(np.log2(near), np.log2(far))
            found.update((np.sign(each.low) * powers).tolist())
    return np.array(sorted(found))


def _fine(intervals: Sequence[_Interval], rises: bool) -> Iterator[float]:
    """Thresholds in even steps within each interval, the more the more it decides.

    Of an interval next to 0 only 0 and the looser end: at the other one every score that is more
    than nothing matches, and nobody would take such a small number for that.
    """
    total = sum(each.num_decided for each in intervals)
    for each in intervals:
        if each.is_next_to_zero:
            yield from (0.0, each.low if rises else each.high)
        else:
            steps = 2 + round(_NUM_THRESHOLDS * each.num_decided / total)
            yield from np.linspace(each.low, each.high, steps).tolist()


@dataclass(frozen=True, slots=True)
class _Runs:
    ruleset: RuleSet
    rule: Rule
    signal: Signal
    examples: Sequence[Example]

    def positions_at(self, thresholds: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
        """[thresholds, examples]: where the rule first matches, or `NEVER`."""
        copies = tuple(self._copy(i, float(value)) for i, value in enumerate(thresholds))
        requests = [example.request for example in self.examples]
        found = first_positions(with_rules(self.ruleset, copies), requests)
        return np.stack([found[copy.name] for copy in copies])

    def _copy(self, number: int, threshold: float) -> Rule:
        signals = tuple(
            replace(signal, threshold=threshold) if signal.name == self.signal.name else signal
            for signal in self.rule.signals
        )
        name = f"{self.rule.name}~{number}"
        return replace(
            self.rule,
            id=name,
            name=name,
            signals=signals,
            emit=True,
            keep_firing_for=_LONG,
        )
