"""Lints of sequences that nothing can complete, or in which the order is not really asked for."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from itertools import combinations

from saeguard.rules.lints.evidence import speaking_for
from saeguard.rules.lints.finding import Remark, about, about_signal
from saeguard.rules.model import Rule, RuleSet, StepSequence
from saeguard.rules.phases import Phase

_READ = {Phase.SYSTEM, Phase.PROMPT}
_GENERATED = {Phase.REASONING, Phase.ANSWER, Phase.TOOL_CALL}


def impossible_order(ruleset: RuleSet, today: date) -> Iterator[Remark]:
    """A sequence with a step in what the model generates before a step in what it was given, or
    with more steps than `within` has room for. It can never be completed; reorder the steps, or
    give them more tokens."""
    for rule, sequence in _sequences(ruleset):
        for (before, earlier), (after, later) in combinations(enumerate(sequence.steps, 1), 2):
            if earlier.phases <= _GENERATED and later.phases <= _READ:
                yield about(
                    rule,
                    f"step {before} is in the {_names(earlier.phases)} and step {after} in the "
                    f"{_names(later.phases)}, which comes first in every request",
                )
                break
        if sequence.within < len(sequence.steps) - 1:
            yield about(
                rule,
                f"{len(sequence.steps)} steps on ever later tokens do not fit "
                f"within {sequence.within}",
            )


def window_beyond_within(ruleset: RuleSet, today: date) -> Iterator[Remark]:
    """A later step whose window is longer than the sequence's `within`, in a phase that an
    earlier step shares: what it sees may lie before the first step, so the order is not asked
    for. Shorten the window, or lengthen `within`."""
    for rule, sequence in _sequences(ruleset):
        phases = sequence.steps[0].phases
        for step in sequence.steps[1:]:
            shares_phase = bool(step.phases & phases)
            for signal in speaking_for(step.when, rule.signals) if shares_phase else ():
                aggregate = signal.aggregate
                if aggregate.kind != "ema" and aggregate.tokens > sequence.within:
                    yield about_signal(
                        rule,
                        signal,
                        f"the window of '{signal.name}' ({aggregate.tokens} tokens) reaches beyond "
                        f"the first step, which is at most {sequence.within} tokens back",
                    )
            phases |= step.phases


def _sequences(ruleset: RuleSet) -> Iterator[tuple[Rule, StepSequence]]:
    for rule in ruleset.rules:
        if isinstance(rule.detection, StepSequence):
            yield rule, rule.detection


def _names(phases: frozenset[Phase]) -> str:
    return " or ".join(str(phase) for phase in sorted(phases))
