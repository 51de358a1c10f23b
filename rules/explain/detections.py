"""When a rule matches: conditions, sequences and correlations in plain words."""

from __future__ import annotations

from collections.abc import Iterator

from saeguard.rules.conditions import Condition, Not, operands_of
from saeguard.rules.explain.signals import Wording
from saeguard.rules.explain.words import Item, join, ordinal, phases_in_words
from saeguard.rules.loading.units import format_duration
from saeguard.rules.model import Correlation, Rule, RuleSet, StepSequence

_MISSING = "A negated signal is also true where nothing of it was observed."


def matches(ruleset: RuleSet, rule: Rule) -> Iterator[Item]:
    """What must happen, in what order, for how long."""
    wording = Wording(rule.signals, ruleset.features)
    match rule.detection:
        case Correlation() as correlation:
            yield from _correlation(correlation)
        case StepSequence() as sequence:
            yield from _sequence(sequence, wording)
        case condition:
            yield from _condition(rule, condition, wording)


def _condition(rule: Rule, condition: Condition, wording: Wording) -> Iterator[Item]:
    when = "On the first token on which"
    if rule.for_tokens > 1:
        when = f"On the token that is the {ordinal(rule.for_tokens)} in a row on which"
    yield _lead(when, wording.condition(condition))
    if _negates(condition):
        yield Item(_MISSING)
    if rule.for_tokens > 1 or rule.keep_firing_for:
        yield Item("Counting starts anew when another phase of the request begins.")
    if rule.keep_firing_for:
        yield Item(
            f"It is one match until that has been false for more than {rule.keep_firing_for} "
            "tokens in a row."
        )


def _sequence(sequence: StepSequence, wording: Wording) -> Iterator[Item]:
    yield Item(
        f"When these {len(sequence.steps)} steps come true in this order, each on a later token "
        f"than the one before, the last at most {sequence.within} tokens after the first:",
        tuple(
            _lead(
                f"{'then' if number else 'first'}, in {phases_in_words(step.phases, 'or')},",
                wording.condition(step.when),
            )
            for number, step in enumerate(sequence.steps)
        ),
    )
    if unless := sequence.unless:
        yield _lead(
            f"Unless, in {phases_in_words(unless.phases, 'or')}, on a token after the first step's "
            "and up to the last step's,",
            wording.condition(unless.when),
        )
    steps = sequence.steps if unless is None else (*sequence.steps, unless)
    if any(_negates(step.when) for step in steps):
        yield Item(_MISSING)
    yield Item("The newest first step counts, and each match needs a new one.")


def _lead(lead: str, item: Item) -> Item:
    """A sentence that ends in a condition, which is listed below it."""
    if item.items:
        return Item(f"{lead} {item.text}", item.items)
    return Item(f"{lead} this is true:", (item,))


def _correlation(correlation: Correlation) -> Iterator[Item]:
    rules = [f"`{name}`" for name in correlation.rules]
    number = f"{'at least' if correlation.comparison == 'gte' else 'more than'} "
    number += str(correlation.threshold)
    within = f"within {format_duration(correlation.timespan_s)}"
    match correlation.type:
        case "event_count":
            what = f"there are {number} matches of {join(rules, 'or')} {within}"
        case "value_count":
            what = f"matches of {join(rules, 'or')} {within} come from {number} different "
            what += "LoRAs" if correlation.field == "lora" else f"{correlation.field}s"
        case "temporal":
            what = f"{join(rules)} have all matched {within}, in any order"
        case "temporal_ordered":
            what = f"{', then '.join(rules)} have matched in this order {within}"
    group = ", over all requests"
    if correlation.group_by:
        group = f", counted for each {join(correlation.group_by)} separately"
    yield Item(f"When {what}{group}.")
    yield Item("It matches again only after that has been false.")
    yield Item(
        "Counted are matches that no exception suppressed and that are within their own rule's "
        "limit per request."
    )


def _negates(condition: Condition) -> bool:
    return isinstance(condition, Not) or any(map(_negates, operands_of(condition)))
