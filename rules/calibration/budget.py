"""The loosest threshold that keeps false alarms within a budget, with a stated confidence.

Going from the strictest threshold to looser ones, it is the last before the upper bound of the
rate of false alarms first exceeds the budget. Where looser thresholds only ever add matches, the
true rate at the one that is chosen exceeds the budget with probability 1 - confidence at most,
although the same requests served to choose it. Source: S. Bates, A. Angelopoulos, L. Lei,
J. Malik, M. Jordan, Distribution-free, risk-controlling prediction sets, JACM 68 (2021).

It speaks of requests like the negatives that were given, and of no others.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from saeguard.rules.calibration.first_positions import NEVER
from saeguard.rules.calibration.intervals import (
    Rate,
    num_needed,
    poisson_upper_bound,
    upper_bound,
)
from saeguard.rules.calibration.labels import Example
from saeguard.rules.calibration.resampling import numbered, rates_of
from saeguard.rules.calibration.sweep import Sweep

_WRITTEN = re.compile(r"(\d+(?:\.\d+)?)/(\d+(?:\.\d+)?)(k|M)?(req|tok)")
_SCALES = {None: 1.0, "k": 1e3, "M": 1e6}


@dataclass(frozen=True, slots=True)
class Budget:
    """False alarms for each request, or for each token, that are accepted at most."""

    rate: float
    per: Literal["req", "tok"]
    confidence: float = 0.95
    written: str = ""

    @classmethod
    def parse(cls, written: str, confidence: float = 0.95) -> Budget:
        """From `1/1000req`, `0.5/kreq` written as `0.5/1kreq`, or `2/1Mtok`.

        Raises:
            ValueError: it is written otherwise, or no rate between 0 and 1.
        """
        parts = _WRITTEN.fullmatch(written.replace(" ", ""))
        if parts is None:
            raise ValueError(f"a budget is written like 1/1000req or 2/1Mtok, not {written!r}")
        total = float(parts[2]) * _SCALES[parts[3]]
        rate = float(parts[1]) / total if total else 1.0
        if not 0 < rate < 1:
            raise ValueError(f"{written!r} is no rate between 0 and 1")
        if not 0.5 <= confidence < 1:
            raise ValueError(f"a confidence is from 0.5 to less than 1, not {confidence:g}")
        return cls(rate, "req" if parts[4] == "req" else "tok", confidence, written)


@dataclass(frozen=True, slots=True)
class Chosen:
    """A threshold and what it does."""

    threshold: float
    false_alarms: int
    """Of the negatives, in what is counted: groups where there are any, else requests."""
    bound: float
    """Upper bound of the rate of false alarms, at the budget's confidence."""
    recall: Rate


@dataclass(frozen=True, slots=True)
class Calibration:
    """What came of a budget for one rule."""

    budget: Budget
    chosen: Chosen | None
    """None: not even the strictest threshold that was tried keeps it, for sure."""
    before: Chosen
    """The threshold that the rule has."""
    num_negatives: int
    """Groups where there are any, else requests."""
    num_positives: int
    counted: Literal["requests", "groups", "tokens"]
    num_needed: int
    """Of what is counted: with fewer not even a rule that is silent on all is within budget."""

    @property
    def has_enough(self) -> bool:
        return self.num_negatives >= self.num_needed


def calibrate(found: Sweep, examples: Sequence[Example], budget: Budget) -> Calibration:
    """Choose a threshold.

    Args:
        found: the sweep over these examples.
        examples: in the order of the sweep's columns, all of which count for the rule.
        budget: what is accepted.
    """
    tally = _Tally.of(found, examples, budget)
    chosen = None
    for row in range(len(found.thresholds)):
        if tally.false_alarms_at(row)[1] > budget.rate:
            break
        chosen = row
    now = int(np.flatnonzero(found.thresholds == found.signal.threshold)[0])
    return Calibration(
        budget=budget,
        chosen=None if chosen is None else tally.at(chosen),
        before=tally.at(now),
        num_negatives=tally.total,
        num_positives=int(tally.positive.sum()),
        counted=tally.counted,
        num_needed=tally.num_needed,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Tally:
    """Counts matches at a threshold."""

    found: Sweep
    budget: Budget
    positive: npt.NDArray[np.bool_]
    weights: npt.NDArray[np.float64]
    """[positives]"""
    groups_of_positives: tuple[str, ...]
    groups: npt.NDArray[np.int64]
    """[negatives]: of each the number of its group."""
    counted: Literal["requests", "groups", "tokens"]
    num_tokens: int

    @classmethod
    def of(cls, found: Sweep, examples: Sequence[Example], budget: Budget) -> _Tally:
        rule = found.rule.name
        positive = np.array([example.answer(rule) for example in examples], np.bool_)
        positives = [example for example in examples if example.answer(rule)]
        negatives = [example for example in examples if not example.answer(rule)]
        has_groups = any(example.label.group is not None for example in negatives)
        by_request: Literal["requests", "groups"] = "groups" if has_groups else "requests"
        return cls(
            found=found,
            budget=budget,
            positive=positive,
            weights=np.array([example.weight for example in positives]),
            groups_of_positives=tuple(example.group for example in positives),
            groups=numbered([example.group for example in negatives]),
            counted="tokens" if budget.per == "tok" else by_request,
            num_tokens=sum(int((~np.isnan(e.request.scores)).any(axis=1).sum()) for e in negatives),
        )

    @property
    def total(self) -> int:
        if self.counted == "tokens":
            return self.num_tokens
        return len(np.unique(self.groups))

    @property
    def num_needed(self) -> int:
        if self.counted == "tokens":
            bound = poisson_upper_bound(0, self.budget.confidence)
            return int(np.ceil(bound / self.budget.rate))
        return num_needed(self.budget.rate, self.budget.confidence)

    def false_alarms_at(self, row: int) -> tuple[int, float]:
        """Their number, and the upper bound of their rate."""
        false_alarms = self.found.positions[row, ~self.positive] != NEVER
        confidence = self.budget.confidence
        if self.counted == "tokens":
            count = int(false_alarms.sum())
            return count, poisson_upper_bound(count, confidence) / max(self.num_tokens, 1)
        count = len(np.unique(self.groups[false_alarms]))
        return count, upper_bound(count, self.total, confidence)

    def at(self, row: int) -> Chosen:
        count, bound = self.false_alarms_at(row)
        hits = self.found.positions[None, row, self.positive] != NEVER
        (recall,) = rates_of(hits, self.groups_of_positives, self.weights)
        return Chosen(float(self.found.thresholds[row]), count, bound, recall)
