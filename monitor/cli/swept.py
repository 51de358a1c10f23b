"""Of which requests a report of a backtest sweeps the threshold: of many some, drawn by chance.

At some 200 thresholds a request takes 3 ms, so that a hundred thousand would take minutes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from saeguard.rules.calibration.backtest import RuleResult
from saeguard.rules.calibration.labels import Answered

MAX_OF_A_SIDE = 2_000
MAX_WRONG = 200
"""Of the misses, and of the false alarms."""


@dataclass(frozen=True, slots=True)
class Swept:
    """Of one rule, ids of requests."""

    for_curves: frozenset[str]
    for_cases: frozenset[str]
    """Misses and false alarms."""
    how_drawn: str
    """`2,000 of 98,000 negatives`; empty where all are swept."""

    @property
    def all(self) -> frozenset[str]:
        return self.for_curves | self.for_cases


def choose(result: RuleResult, answered: Sequence[Answered]) -> Swept:
    """Always the same ones.

    Args:
        answered: all requests whose answers are known.
    """
    known = [each for each in answered if each.counts_for(result.rule)]
    draw = _drawing(np.random.default_rng(0))
    ids, said = list[str](), []
    for side, noun in ((True, "positives"), (False, "negatives")):
        of_side = [each.label.id for each in known if each.answer(result.rule) is side]
        ids += draw(of_side, MAX_OF_A_SIDE)
        if len(of_side) > MAX_OF_A_SIDE:
            said.append(f"{MAX_OF_A_SIDE:,} of {len(of_side):,} {noun}")
    wrong = [*draw(result.missed, MAX_WRONG), *draw(result.false_alarms, MAX_WRONG)]
    return Swept(frozenset(ids), frozenset(wrong), " and ".join(said))


def _drawing(rng: np.random.Generator) -> Callable[[Sequence[str], int], list[str]]:
    def draw(ids: Sequence[str], most: int) -> list[str]:
        if len(ids) <= most:
            return list(ids)
        return [ids[i] for i in rng.choice(len(ids), most, replace=False)]

    return draw
