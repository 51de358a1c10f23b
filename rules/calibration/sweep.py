"""What a rule would do at every threshold of one of its signals.

The rule runs in many copies at once, in the engine that serves; so it holds for any aggregate,
condition or sequence, and nothing is computed twice in two ways.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from saeguard.rules.calibration.backtest import first_alerts
from saeguard.rules.calibration.labels import Example
from saeguard.rules.conditions import names_in
from saeguard.rules.model import Rule, RuleSet, Signal, StepSequence
from saeguard.rules.testing.derive import own_signals, wanted_truths, with_rules

NEVER = -1
_NUM_THRESHOLDS = 200
_DIGITS = 4
_DOUBLINGS = np.geomspace(2.0**-14, 2.0**20, 35)


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

    Raises:
        RecordingError: a request has no scores of a feature that the rules read.
    """
    run = _Runs(ruleset, rule, signal, examples)
    rises = signal.comparison in ("gt", "gte")
    coarse = np.concatenate([-_DOUBLINGS[::-1], [0.0], _DOUBLINGS])
    coarse = coarse[::-1] if rises else coarse
    counts = run.positions_at(coarse) != NEVER
    numbers = counts.sum(axis=1)
    last_quiet = max(int(np.argmax(numbers > 0)) - 1, 0)
    first_full = int(np.argmax(numbers == numbers[-1]))
    steps = np.linspace(coarse[last_quiet], coarse[max(first_full, last_quiet + 1)], 16)
    numbers = (run.positions_at(steps) != NEVER).sum(axis=1)  # a doubling is too wide a step
    last_quiet = max(int(np.argmax(numbers > 0)) - 1, 0)
    fine = np.linspace(steps[last_quiet], steps[-1], _NUM_THRESHOLDS)
    rounded = {float(f"{value:.{_DIGITS}g}") for value in fine} | {signal.threshold}
    thresholds = np.array(sorted(rounded, reverse=rises))
    return Sweep(rule, signal, thresholds, run.positions_at(thresholds))


@dataclass(frozen=True, slots=True)
class _Runs:
    ruleset: RuleSet
    rule: Rule
    signal: Signal
    examples: Sequence[Example]

    def positions_at(self, thresholds: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
        """[thresholds, examples]: where the rule first matches, or `NEVER`."""
        copies = tuple(self._copy(i, float(value)) for i, value in enumerate(thresholds))
        alerts = first_alerts(with_rules(self.ruleset, copies), self.examples)
        return np.array(
            [
                [alerts[copy.name].get(example.label.id, NEVER) for example in self.examples]
                for copy in copies
            ],
            np.int64,
        )

    def _copy(self, number: int, threshold: float) -> Rule:
        signals = tuple(
            replace(signal, threshold=threshold) if signal.name == self.signal.name else signal
            for signal in self.rule.signals
        )
        name = f"{self.rule.name}~{number}"
        return replace(self.rule, id=name, name=name, signals=signals, emit=True)
