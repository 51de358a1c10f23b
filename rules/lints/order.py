"""Lints of sequences that nothing can complete, or in which the order is not really asked for."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from itertools import pairwise

from saeguard.rules.conditions import names_in
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
        for number, (before, after) in enumerate(pairwise(sequence.steps), 1):
            if before.phases <= _GENERATED and after.phases <= _READ:
                yield about(
                    rule,
                    f"step {number} is in the {_names(before.phases)} and step {number + 1} in "
                    f"the {_names(after.phases)}, which comes before it in every request",
                )
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
        signals = {signal.name: signal for signal in rule.signals}
        phases = sequence.steps[0].phases
        for step in sequence.steps[1:]:
            names = (
                {mention.name for mention in names_in(step.when)} if step.phases & phases else ()
            )
            for name in sorted(names):
                aggregate = signals[name].aggregate
                if aggregate.kind != "ema" and aggregate.tokens > sequence.within:
                    yield about_signal(
                        rule,
                        signals[name],
                        f"the window of '{name}' ({aggregate.tokens} tokens) reaches back beyond "
                        f"the first step, which is at most {sequence.within} tokens before",
                    )
            phases |= step.phases


def _sequences(ruleset: RuleSet) -> Iterator[tuple[Rule, StepSequence]]:
    for rule in ruleset.rules:
        if isinstance(rule.detection, StepSequence):
            yield rule, rule.detection


def _names(phases: frozenset[Phase]) -> str:
    return " or ".join(str(phase) for phase in sorted(phases))
