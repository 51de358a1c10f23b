"""What can be drawn of a rule whose threshold was swept: one point for each threshold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from saeguard.rules.calibration.backtest import NO_SOURCE, RuleResult
from saeguard.rules.calibration.first_positions import NEVER
from saeguard.rules.calibration.intervals import Rate
from saeguard.rules.calibration.labels import Example
from saeguard.rules.calibration.resampling import auroc_with_interval, rates_of
from saeguard.rules.calibration.sweep import Sweep
from saeguard.rules.model import Signal
from saeguard.rules.phases import Phase

_MAX_STEPS = 40


@dataclass(frozen=True, slots=True)
class Curves:
    """A rule on the requests that count for it, at thresholds from the strictest on."""

    signal: Signal
    thresholds: tuple[float, ...]
    recall: tuple[Rate, ...]
    false_alarm_rate: tuple[Rate, ...]
    auroc: tuple[float, float, float] | None
    """With its 95 % interval; None where positives or negatives are missing."""
    positives: npt.NDArray[np.float64] = field(repr=False)
    """The value of each positive: the strictest threshold at which the rule matches in it; NaN
    where it does at none."""
    negatives: npt.NDArray[np.float64] = field(repr=False)
    """Likewise of each negative."""
    earliest: tuple[tuple[int, Rate], ...]
    """Share of the positives with a span that have an alert at most so many tokens after its first
    (negative: before it), at the threshold that the rule has."""


@dataclass(frozen=True, slots=True)
class Case:
    """A request in which the rule was wrong."""

    kind: Literal["missed", "false alarm"]
    id: str
    source: str
    value: float | None
    """As in `Curves`; None where the rule matches at no threshold."""
    position: int | None
    """Of the token with which it first matches at that."""
    phase: str
    token_id: int | None
    token: str | None = None
    """Its text, where that is known."""


@dataclass(frozen=True, slots=True)
class RuleReport:
    """All that is shown of one rule."""

    result: RuleResult
    curves: Curves | None
    no_curves: str
    """Why there are none."""
    cases: tuple[Case, ...]
    """Of many misses or false alarms some."""
    how_drawn: str = ""
    """Of how many requests the curves are, where that is not all."""


def curves_of(found: Sweep, examples: Sequence[Example]) -> Curves:
    """
    Args:
        examples: in the order of the sweep's columns, all of which count for its rule.
    """
    is_positive = np.array([example.answer(found.rule.name) for example in examples], np.bool_)
    sides = [
        [e for e, positive in zip(examples, is_positive, strict=True) if positive == side]
        for side in (True, False)
    ]
    recall, false_alarm_rate = (
        rates_of(
            found.matched[:, is_positive == side],
            [example.group for example in of_side],
            np.array([example.weight for example in of_side]),
        )
        for side, of_side in zip((True, False), sides, strict=True)
    )
    rows = strictest_rows(found)
    values = np.append(found.thresholds, np.nan)[rows]
    return Curves(
        signal=found.signal,
        thresholds=tuple(found.thresholds.tolist()),
        recall=tuple(recall),
        false_alarm_rate=tuple(false_alarm_rate),
        auroc=auroc_with_interval(rows, is_positive, [example.group for example in examples]),
        positives=values[is_positive],
        negatives=values[~is_positive],
        earliest=tuple(_earliest(found, examples)),
    )


def strictest_rows(found: Sweep) -> npt.NDArray[np.int64]:
    """[examples] number of the strictest threshold at which the rule matches; one past the last
    where it does at none."""
    matched = found.matched
    rows = np.argmax(matched, axis=0)
    return np.where(matched.any(axis=0), rows, len(found.thresholds))


def cases_of(found: Sweep, examples: Sequence[Example]) -> tuple[Case, ...]:
    """The misses, the nearest first, and then the false alarms, the surest first."""
    now = _own_row(found)
    rows = strictest_rows(found)
    wrong = []
    for i, example in enumerate(examples):
        is_alerted = found.positions[now, i] != NEVER
        if is_alerted != example.answer(found.rule.name):
            wrong.append((is_alerted, int(rows[i]), i))
    return tuple(_case(found, examples[i], row, i) for _, row, i in sorted(wrong))


def _case(found: Sweep, example: Example, row: int, i: int) -> Case:
    request = example.request
    value, position, phase, token_id = None, None, "", None
    if row < len(found.thresholds):
        value, position = float(found.thresholds[row]), int(found.positions[row, i])
        at = int(np.flatnonzero(request.positions == position)[0])
        phase = str(Phase(int(request.phases[at])))
        token_id = None if request.token_ids is None else int(request.token_ids[at])
    return Case(
        kind="missed" if example.answer(found.rule.name) else "false alarm",
        id=example.label.id,
        source=example.label.source or NO_SOURCE,
        value=value,
        position=position,
        phase=phase,
        token_id=token_id,
    )


def _own_row(found: Sweep) -> int:
    return int(np.flatnonzero(found.thresholds == found.signal.threshold)[0])


def _earliest(found: Sweep, examples: Sequence[Example]) -> list[tuple[int, Rate]]:
    known = [
        (example, example.label.span[0], int(position))
        for example, position in zip(examples, found.positions[_own_row(found)], strict=True)
        if example.answer(found.rule.name) and example.label.span is not None
    ]
    if not known:
        return []
    delays = np.array([at - first if at != NEVER else np.inf for _, first, at in known])
    seen = np.unique(delays[np.isfinite(delays)]).astype(int)
    if len(seen) > _MAX_STEPS:
        seen = seen[np.linspace(0, len(seen) - 1, _MAX_STEPS).astype(int)]
    ends = [seen[0] - 1, seen[-1] + 1] if len(seen) else [1]
    steps = np.unique([0, *ends, *seen])
    rates = rates_of(
        delays[None] <= steps[:, None],
        [example.group for example, _, _ in known],
        np.array([example.weight for example, _, _ in known]),
    )
    return list(zip(steps.tolist(), rates, strict=True))
