"""All rules compiled to array operations, with the state of every slot.

What happens to a block of tokens:

1. `signals` takes it in and says where each test, an aggregate compared with a threshold, can
   possibly hold: a table [tests, rows], of the rows on which some test can.
2. `predicates` finds the pairs of a condition and a row for which the table leaves it possible.
3. For those only, the tests that the table leaves open are computed from their windows.
4. What is then true goes to `runs` or `sequences`, which tell on which rows a match begins.

A token on which nothing is possible costs no more than a comparison of its scores, so the price of
a rule is that of the tokens that come near to it.

A rule skips a token on which none of its features was observed: nothing is true there, and it is
not one of the rule's tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from saeguard.rules.conditions import Bools
from saeguard.rules.engine import kernels
from saeguard.rules.engine.aggregates import Indices
from saeguard.rules.engine.blocks import Block, extended
from saeguard.rules.engine.predicates import Predicate
from saeguard.rules.engine.sequences import UNLESS, Sequences
from saeguard.rules.engine.signal_tests import Signals, View
from saeguard.rules.matches import Reading
from saeguard.rules.model import Correlation, Rule, StepSequence
from saeguard.rules.phases import Phase
from saeguard.rules.scope import RequestContext


@dataclass(frozen=True, slots=True)
class Hit:
    """Rule `rule` began to match on row `row` of the block."""

    row: int
    rule: int
    first_position: int
    readings: dict[str, Reading]


class Program:
    """Rules about tokens, over scores with the given columns."""

    def __init__(
        self, rules: Sequence[Rule], columns: Sequence[str], tells_why: bool = True
    ) -> None:
        """Without `tells_why` hits have no readings."""
        self.rules = tuple(rules)
        self._tells_why = tells_why
        self._signals = Signals((signal for rule in rules for signal in rule.signals), columns)
        self._tests_of = [{s: self._signals.row_of(s) for s in rule.signals} for rule in rules]
        predicates = [each for number in range(len(rules)) for each in self._compile(number)]
        self._predicates = kernels.in_use.predicates(
            predicates, self._signals.bounded, self._signals.exact
        )
        self._rule_of = np.array([each.rule for each in predicates], np.int64)
        self._step_of = np.array([each.step for each in predicates], np.int64)
        sequences = {
            i: d for i, r in enumerate(rules) if isinstance(d := r.detection, StepSequence)
        }
        self._is_sequence = np.array([i in sequences for i in range(len(rules))], np.bool_)
        self._sequences = Sequences(sequences)
        self._runs = kernels.in_use.runs(
            [r.for_tokens for r in rules], [r.keep_firing_for for r in rules]
        )
        self._reads = np.zeros((len(columns), len(rules)), np.float32)
        for number, rule in enumerate(rules):
            self._reads[[self._signals.columns.of_feature(f) for f in rule.features], number] = 1
        self._in_phase = np.zeros((len(Phase), len(predicates)), np.bool_)
        for number, predicate in enumerate(predicates):
            self._in_phase[list(predicate.phases), number] = True
        self._admitted = np.empty((0, len(rules)), np.bool_)
        self._applies = np.empty((0, len(predicates)), np.bool_)  # in the current phase
        self._num_skipped = np.empty((0, len(rules)), np.int32)  # tokens of the run

    def _compile(self, number: int) -> Iterator[Predicate]:
        rule = self.rules[number]
        rows = {signal.name: test for signal, test in self._tests_of[number].items()}
        match rule.detection:
            case StepSequence(steps, _, unless):
                for step, each in enumerate(steps):
                    yield Predicate(number, step, each.when, each.phases, rows)
                if unless is not None:
                    yield Predicate(number, UNLESS, unless.when, unless.phases, rows)
            case Correlation():
                raise ValueError(f"rule {rule.name} is not about tokens")
            case condition:
                yield Predicate(number, 0, condition, rule.scope.phases, rows)

    def grow(self, num_slots: int) -> None:
        """Make room for so many slots."""
        self._signals.grow(num_slots)
        self._runs.grow(num_slots)
        self._admitted = extended(self._admitted, num_slots)
        self._applies = extended(self._applies, num_slots)
        self._num_skipped = extended(self._num_skipped, num_slots)

    def admit(self, slot: int, request: RequestContext) -> None:
        """Give the slot to a request."""
        self._admitted[slot] = [rule.scope.admits(request) for rule in self.rules]
        self._sequences.forget(slot)

    def begin_runs(self, slots: Indices, phases: Indices) -> None:
        """New runs of these phases begin in these slots: of the old ones only sequences know."""
        self._applies[slots] = self._admitted[slots][:, self._rule_of] & self._in_phase[phases]
        self._signals.begin_runs(slots)
        self._runs.reset(slots)
        self._num_skipped[slots] = 0

    def rearm(self, slot: int, rules: Sequence[int]) -> None:
        """Let rules that are firing in a slot fire again, on the next token on which they hold."""
        self._runs.rearm(slot, rules)

    def observe(self, block: Block) -> list[Hit]:
        """Take the next tokens of some slots, and tell what begins to match.

        Args:
            block: the tokens, with scores as the columns were given.
        """
        view = self._signals.look(block, everywhere=self._predicates.are_possible_anywhere)
        true = self._true(view)
        hits = self._matches(view, *true) if true[0].size else []
        self._signals.remember(view)
        return hits

    def _true(self, view: View) -> tuple[Indices, Indices, Indices]:
        """Predicates that are true, each with its row and the number of that among the rule's
        tokens of the run."""
        slot_of, tokens = view.block.slot_of, view.block.tokens
        predicates, places = self._predicates.possible(view.holds)
        rows = view.rows[places]
        slots, rules = slot_of[rows], self._rule_of[predicates]
        applies = self._applies[slots, predicates]
        numbers = tokens[rows] - self._num_skipped[slots, rules]
        if view.has_holes:
            skipped = self._skipped(view)
            applies &= ~skipped[rows, rules]
            numbers -= self._count_skipped(view.block, skipped)[rows, rules]
        if not applies.all():
            predicates, places, rows = predicates[applies], places[applies], rows[applies]
            numbers = numbers[applies]
        self._signals.settle(view, *self._predicates.open_tests(view.holds, predicates, places))
        true = self._predicates.decide(view.holds, predicates, places)
        return predicates[true], rows[true], numbers[true]

    def _matches(
        self, view: View, predicates: Indices, rows: Indices, numbers: Indices
    ) -> list[Hit]:
        """What begins to match, from all true pairs; the numbers are those of the rule's tokens."""
        block, rules = view.block, self._rule_of[predicates]
        is_step = self._is_sequence[rules]
        plain, step = (~is_step).nonzero()[0], is_step.nonzero()[0]
        begun = [
            *self._begun_runs(block, rules[plain], rows[plain], numbers[plain]),
            *self._begun_sequences(block, predicates[step], rows[step]),
        ]
        if not self._tells_why:
            return [Hit(row, rule, first, {}) for row, rule, first in begun]
        if not begun:
            return []
        told = self._signals.readings(view, [(self._tests_of[rule], row) for row, rule, _ in begun])
        return [
            Hit(row, rule, min([first, *begins]), readings)
            for (row, rule, first), (readings, begins) in zip(begun, told, strict=True)
        ]

    def _skipped(self, view: View) -> Bools:
        """[rows, rules]: none of the rule's features was observed."""
        observed = ~np.isnan(view.block.scores[:, : len(self._reads)])
        skipped: Bools = observed.astype(np.float32) @ self._reads == 0
        return skipped

    def _count_skipped(self, block: Block, skipped: Bools) -> npt.NDArray[np.int32]:
        """[rows, rules], those of the lane up to each row; they are added to the slots' own."""
        counts = np.zeros((len(skipped) + 1, skipped.shape[1]), np.int32)
        np.cumsum(skipped, axis=0, out=counts[1:])
        before = counts[block.starts[:-1]]
        self._num_skipped[block.slots] += counts[block.starts[1:]] - before
        so_far: npt.NDArray[np.int32] = counts[1:] - before[block.lanes]
        return so_far

    def _begun_runs(
        self, block: Block, rules: Indices, rows: Indices, numbers: Indices
    ) -> Iterator[tuple[int, int, int]]:
        if not rules.size:
            return
        slots = block.slot_of[rows]
        observe = self._runs.observe_one_each if block.is_one_each else self._runs.observe
        which, began = observe(slots, rules, numbers, block.positions[rows])
        yield from zip(rows[which].tolist(), rules[which].tolist(), began.tolist(), strict=True)

    def _begun_sequences(
        self, block: Block, predicates: Indices, rows: Indices
    ) -> Iterator[tuple[int, int, int]]:
        steps: dict[tuple[int, int], set[int]] = {}
        rules, true = self._rule_of[predicates].tolist(), self._step_of[predicates].tolist()
        for rule, row, step in zip(rules, rows.tolist(), true, strict=True):
            steps.setdefault((rule, row), set()).add(step)
        for rule, row in sorted(steps):
            first = self._sequences.observe(
                slot=int(block.slot_of[row]),
                rule=rule,
                position=int(block.positions[row]),
                steps=steps[rule, row],
            )
            if first is not None:
                yield row, rule, first
