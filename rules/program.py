"""The rules that look at one phase, compiled to array operations, and their state in every slot.

A slot is the place of one live request in the state arrays. State belongs to one phase run: the
engine resets a slot whenever its phase changes, so no window, average or `for` reaches across.

A rule skips a token on which none of its features was observed: it cannot fire there, and `for`
neither grows nor ends. Any other token on which the condition is false ends the `for` run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from saeguard.rules.aggregates import AggregateBank, Indices, Numbers, Scores
from saeguard.rules.conditions import Bools, Condition, compile_condition
from saeguard.rules.matches import Reading
from saeguard.rules.model import Aggregate, Comparison, Correlation, Rule, Signal, StepSequence
from saeguard.rules.scope import RequestContext

_COMPARE: dict[Comparison, np.ufunc] = {
    "gt": np.greater,
    "gte": np.greater_equal,
    "lt": np.less,
    "lte": np.less_equal,
}
_Test = tuple[Aggregate, Comparison, float]


@dataclass(frozen=True, slots=True)
class Hit:
    """Rule `rule` of the program began to fire on token `token` of the block's slot `lane`."""

    rule: int
    token: int
    lane: int
    first_position: int
    readings: dict[str, Reading]


@dataclass(frozen=True, slots=True)
class _Block:
    """What one call works on. In two arrays `history` older tokens precede the block's own."""

    slots: Indices  # [lanes]
    scores: Scores  # [features, history + tokens, lanes]
    positions: Indices  # [history + tokens, lanes]
    begin: Indices  # [lanes], where in those the run begins; negative when further back
    values: Numbers  # [aggregates, tokens, lanes]
    holds: Bools  # [tests, tokens, lanes]
    rules: Indices  # [active]: the other rules have no `for` run in any lane
    grows: Bools  # [active, tokens, lanes], tokens on which the `for` run grows
    counts: npt.NDArray[np.int32]  # [active, tokens, lanes], its length after each token


class Program:
    """Compiled rules with state for `num_slots` requests."""

    def __init__(self, rules: Sequence[Rule], num_slots: int) -> None:
        self.rules = tuple(rules)
        self.features = tuple(dict.fromkeys(name for rule in rules for name in rule.features))
        self._column_of = {name: column for column, name in enumerate(self.features)}
        self._compile_tests()
        self._compile_rules()
        self._allocate(num_slots)

    def _compile_tests(self) -> None:
        """Rules share aggregates, and tests (an aggregate compared with a threshold)."""
        tests = dict.fromkeys(_test(signal) for rule in self.rules for signal in rule.signals)
        aggregates = dict.fromkeys(aggregate for aggregate, _, _ in tests)
        self._test_row = {test: row for row, test in enumerate(tests)}
        self._aggregate_row = {aggregate: row for row, aggregate in enumerate(aggregates)}
        self._bank = AggregateBank(list(aggregates), self._column_of)
        self._comparisons = []
        for comparison, compare in _COMPARE.items():
            chosen = [test for test in tests if test[1] == comparison]
            rows = np.array([self._test_row[test] for test in chosen], np.int64)
            sources = np.array([self._aggregate_row[test[0]] for test in chosen], np.int64)
            thresholds = np.array([test[2] for test in chosen])[:, None, None]
            if chosen:
                self._comparisons.append((compare, rows, sources, thresholds))

    def _compile_rules(self) -> None:
        self._conditions = [
            compile_condition(
                _condition(rule),
                {signal.name: self._test_row[_test(signal)] for signal in rule.signals},
            )
            for rule in self.rules
        ]
        self._for_tokens = np.array([rule.for_tokens for rule in self.rules])[:, None, None]
        self._columns_of_rule = [
            [self._column_of[name] for name in rule.features] for rule in self.rules
        ]

    def _allocate(self, num_slots: int) -> None:
        num_rules, history = len(self.rules), self._bank.history
        self._scores = np.empty((num_slots, len(self.features), history), np.float32)
        self._positions = np.empty((history, num_slots), np.int64)
        self._ages = np.zeros(num_slots, np.int64)  # tokens of the run so far
        self._emas = np.empty((len(self._bank.ema_rows), num_slots))
        self._counts = np.zeros((num_rules, num_slots), np.int32)
        self._began = np.zeros((num_rules, num_slots), np.int64)  # position where a `for` run began
        self._admitted = np.zeros((num_rules, num_slots), np.bool_)

    def admit(self, slot: int, request: RequestContext) -> None:
        """Give the slot to a request."""
        self._admitted[:, slot] = [rule.scope.admits(request) for rule in self.rules]

    def reset(self, slots: Indices) -> None:
        """Forget what these slots have seen: a new phase run begins in them."""
        self._scores[slots] = np.nan
        self._ages[slots] = 0
        self._emas[:, slots] = np.nan
        self._counts[:, slots] = 0

    def rearm(self, slot: int, rules: Sequence[int]) -> None:
        """Let rules that are firing in a slot fire again, on the next token on which they hold."""
        firing = self._counts[rules, slot] >= self._for_tokens[rules, 0, 0]
        rows = np.array(rules, np.int64)[firing]
        self._counts[rows, slot] = self._for_tokens[rows, 0, 0] - 1

    def observe(self, slots: Indices, scores: Scores, positions: Indices) -> list[Hit]:
        """Take the next tokens of some slots, equally many of each, and tell what begins to fire.

        Args:
            slots: [lanes], each slot once.
            scores: [lanes, features, tokens], features as in `features`.
            positions: [tokens, lanes].
        """
        block = self._evaluate(slots, scores, positions)
        firing = block.grows & (block.counts == self._for_tokens[block.rules])
        hits = [self._hit(block, *place) for place in np.argwhere(firing).tolist()]
        self._remember(block)
        return hits

    def _evaluate(self, slots: Indices, scores: Scores, positions: Indices) -> _Block:
        before = self._bank.history
        joined = np.empty((len(self.features), before + len(positions), len(slots)), np.float32)
        joined[:, :before] = self._scores[slots].transpose(1, 2, 0)
        joined[:, before:] = scores.transpose(1, 2, 0)
        observed = ~np.isnan(joined)
        values = self._bank.compute(joined, observed, self._emas[:, slots])
        holds = np.empty((len(self._test_row), *values.shape[1:]), np.bool_)
        for compare, rows, sources, thresholds in self._comparisons:
            holds[rows] = compare(values[sources], thresholds)
        rules, grows, counts = self._for_runs(slots, holds, observed[:, before:])
        return _Block(
            slots=slots,
            scores=joined,
            positions=np.concatenate((self._positions[:, slots], positions)),
            begin=before - self._ages[slots],
            values=values,
            holds=holds,
            rules=rules,
            grows=grows,
            counts=counts,
        )

    def _for_runs(
        self, slots: Indices, holds: Bools, observed: Bools
    ) -> tuple[Indices, Bools, npt.NDArray[np.int32]]:
        """The rules that are true somewhere or were before, and their `for` runs: see `_Block`."""
        true = np.empty((len(self.rules), *holds.shape[1:]), np.bool_)
        for row, condition in enumerate(self._conditions):
            true[row] = condition(holds)
        true &= self._admitted[:, slots][:, None]
        before = self._counts[:, slots]
        rules = np.flatnonzero(true.any(axis=(1, 2)) | before.any(axis=1))
        known = np.empty((len(rules), *holds.shape[1:]), np.bool_)
        for row, rule in enumerate(rules):
            observed[self._columns_of_rule[rule]].any(axis=0, out=known[row])
        grows = known & true[rules]
        return rules, grows, _run_lengths(before[rules], grows, known & ~grows)

    def _remember(self, block: _Block) -> None:
        slots, before = block.slots, self._bank.history
        num_tokens = block.values.shape[1]
        self._scores[slots] = block.scores[:, num_tokens:].transpose(2, 0, 1)
        self._positions[:, slots] = block.positions[num_tokens:]
        self._ages[slots] += num_tokens
        self._emas[:, slots] = block.values[self._bank.ema_rows, -1]
        self._counts[block.rules[:, None], slots] = block.counts[:, -1]
        # Ordered by token within a rule: of several runs that begin in a block, the last one stays.
        rows, tokens, lanes = np.nonzero(block.grows & (block.counts == 1))
        self._began[block.rules[rows], slots[lanes]] = block.positions[before + tokens, lanes]

    def _hit(self, block: _Block, row: int, token: int, lane: int) -> Hit:
        rule = int(block.rules[row])
        here = (row, slice(token + 1), lane)
        begins = np.flatnonzero(block.grows[here] & (block.counts[here] == 1))
        if begins.size:
            first = int(block.positions[self._bank.history + begins[-1], lane])
        else:
            first = int(self._began[rule, block.slots[lane]])
        readings = {}
        for signal in self.rules[rule].signals:
            window = self._window(block, signal.aggregate, token, lane)
            reading = readings[signal.name] = self._reading(block, signal, token, lane, window)
            if reading.holds:
                first = min(first, int(block.positions[window.start, lane]))
        return Hit(rule, token, lane, first, readings)

    def _window(self, block: _Block, aggregate: Aggregate, token: int, lane: int) -> slice:
        """The tokens an aggregate looks back on; an average never ends, so there only the last."""
        end = self._bank.history + token + 1
        length = 1 if aggregate.kind == "ema" else aggregate.tokens
        return slice(max(end - length, int(block.begin[lane])), end)

    def _reading(
        self, block: _Block, signal: Signal, token: int, lane: int, window: slice
    ) -> Reading:
        aggregate = signal.aggregate
        value = float(block.values[self._aggregate_row[aggregate], token, lane])
        at = window.stop - 1
        if aggregate.kind == "max":
            column = self._column_of[aggregate.features[0]]
            peaks = np.flatnonzero(block.scores[column, window, lane] == value)
            at = window.start + int(peaks[0]) if peaks.size else at
        return Reading(
            signal=signal.name,
            source=aggregate.source,
            features=aggregate.features,
            agg=aggregate.kind,
            value=value,
            comparison=signal.comparison,
            threshold=signal.threshold,
            upper=signal.upper,
            holds=bool(block.holds[self._test_row[_test(signal)], token, lane]),
            position=int(block.positions[at, lane]),
        )


def _condition(rule: Rule) -> Condition:
    assert not isinstance(rule.detection, StepSequence | Correlation)
    return rule.detection


def _test(signal: Signal) -> _Test:
    return signal.aggregate, signal.comparison, signal.threshold


def _run_lengths(before: npt.NDArray[np.int32], grows: Bools, ends: Bools) -> npt.NDArray[np.int32]:
    """Lengths of the current runs [rules, tokens, lanes], continuing runs of length `before`."""
    total = before[:, None] + grows.cumsum(axis=1, dtype=np.int32)
    at_last_end = np.maximum.accumulate(np.where(ends, total, np.int32(0)), axis=1)
    lengths: npt.NDArray[np.int32] = total - at_last_end
    return lengths
