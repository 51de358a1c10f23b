"""Lints of rules that need a person's attention: old, let off, doubled, or hard to read."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping
from datetime import date, timedelta

from saeguard.rules.conditions import AtLeast, Condition, Name, operands_of
from saeguard.rules.lints.finding import Remark, about
from saeguard.rules.model import Change, Correlation, Exemption, Rule, RuleSet, StepSequence

SOON = timedelta(days=30)
_REGEX = re.compile(r"^\^|\$$|[|\\]|\[.*\]")


def deprecated(ruleset: RuleSet, today: date) -> Iterator[Remark]:
    """A rule whose status is `deprecated`, or one that builds on such a rule. Remove it, or
    move to its successor."""
    old = {rule.name for rule in ruleset.rules if rule.status == "deprecated"}
    for rule in ruleset.rules:
        if rule.name in old:
            yield about(rule, f"rule '{rule.name}' is deprecated")
        for name in sorted(old & _built_on(rule)):
            yield about(rule, f"rule '{rule.name}' builds on '{name}', which is deprecated")


def expired_exception(ruleset: RuleSet, today: date) -> Iterator[Remark]:
    """An exception whose last day is over: it no longer holds anything back. Remove it, or
    renew it with a reason."""
    for rule, exemption, expires in _expiring(ruleset):
        if expires < today:
            yield _at(rule, exemption, f"exception '{exemption.name}' expired on {expires}")


def expiring_exception(ruleset: RuleSet, today: date) -> Iterator[Remark]:
    """An exception that ends within 30 days. What it holds back will be alerts from then on."""
    for rule, exemption, expires in _expiring(ruleset):
        if today <= expires <= today + SOON:
            yield _at(rule, exemption, f"exception '{exemption.name}' expires on {expires}")


def permanent_exception(ruleset: RuleSet, today: date) -> Iterator[Remark]:
    """An exception without `expires`: nobody will be asked again whether it is still right."""
    for rule in ruleset.rules:
        for exemption in rule.exceptions:
            if exemption.expires is None:
                yield _at(rule, exemption, f"exception '{exemption.name}' never expires")


def blanket_exception(ruleset: RuleSet, today: date) -> Iterator[Remark]:
    """An exception whose globs fit every model, so that it lets off every request and the rule
    raises no alert. Name who is meant, or remove the rule."""
    for rule in ruleset.rules:
        for exemption in rule.exceptions:
            has_ended = exemption.expires is not None and exemption.expires < today
            if _is_for_everybody(exemption) and not has_ended:
                yield _at(rule, exemption, f"exception '{exemption.name}' lets off every request")


def regex_glob(ruleset: RuleSet, today: date) -> Iterator[Remark]:
    """A name of a model, LoRA, tenant or client that looks like a regular expression. Globs know
    `*` and `?` only: everything else stands for itself."""
    for rule in ruleset.rules:
        scope = rule.scope
        for glob in (*scope.models, *scope.loras, *scope.tenants):
            if _REGEX.search(glob):
                yield about(rule, f"scope: {_looks(glob)}")
        for each in rule.exceptions:
            for glob in (*each.models, *each.loras, *each.tenants, *each.clients):
                if _REGEX.search(glob):
                    yield _at(rule, each, f"exception '{each.name}': {_looks(glob)}")


def silencing_overlay(ruleset: RuleSet, today: date) -> Iterator[Remark]:
    """An overlay that sets `emit: false`, so that the rule raises no alert any more, or takes
    `mandatory: true` back; the rule's own file does not show it. An exception says why, and until
    when."""
    for rule in ruleset.rules:
        for change in rule.changes:
            is_news = change.before is not False  # a building block raised none before
            if change.path == "emit" and not rule.emit and is_news:
                message = f"this overlay takes the alerts of rule '{rule.name}' away"
                yield Remark(change.location, message, rule.location)
            if change.path == "mandatory" and change.before is True and not rule.mandatory:
                message = f"this overlay lets clients opt out of rule '{rule.name}'"
                yield Remark(change.location, message, rule.location)


def repeated_overlay(ruleset: RuleSet, today: date) -> Iterator[Remark]:
    """An overlay that sets what another has set already. The last one wins, whoever wrote it;
    keep one of them."""
    for rule in ruleset.rules:
        first: dict[str, Change] = {}
        for change in rule.changes:
            original = first.setdefault(change.path, change)
            if original is not change and change.path != "exceptions":
                message = f"{change.path} of '{rule.name}' was set at {original.location} already"
                yield Remark(change.location, message, rule.location)


def duplicate_rule(ruleset: RuleSet, today: date) -> Iterator[Remark]:
    """Two rules that look at the same tokens and ask for the same, whatever their names. Each
    match gives two alerts; keep one of them."""
    first: dict[Hashable, Rule] = {}
    for rule in ruleset.rules:
        original = first.setdefault(_meaning(rule), rule)
        if original is not rule:
            yield about(
                rule,
                f"rule '{rule.name}' asks for the same as '{original.name}' ({original.location})",
            )


def no_falsepositives(ruleset: RuleSet, today: date) -> Iterator[Remark]:
    """A rule that does not say what else makes it fire. Who gets its alerts will want to know:
    list what you have seen under `falsepositives`."""
    for rule in ruleset.rules:
        if rule.emit and not rule.falsepositives:
            yield about(rule, f"rule '{rule.name}' names no false positives")


def bare_message(ruleset: RuleSet, today: date) -> Iterator[Remark]:
    """A rule whose message shows no number or token. `{signal.NAME.value}` tells by how much a
    threshold was passed, `{count}` how many matches a correlation counted."""
    for rule in ruleset.rules:
        shown = {placeholder.path[0] for placeholder in rule.message.placeholders()}
        if rule.emit and not shown & {"signal", "count"}:
            yield about(rule, f"the message of '{rule.name}' shows nothing of what was measured")


def _is_for_everybody(exemption: Exemption) -> bool:
    """Every request has a model. Who has no tenant is not let off by any tenants."""
    others = exemption.loras or exemption.tenants or exemption.clients
    return not others and any(set(glob) == {"*"} for glob in exemption.models)


def _looks(glob: str) -> str:
    return f"'{glob}' looks like a regular expression; globs know * and ?"


def _expiring(ruleset: RuleSet) -> Iterator[tuple[Rule, Exemption, date]]:
    for rule in ruleset.rules:
        for exemption in rule.exceptions:
            if exemption.expires is not None:
                yield rule, exemption, exemption.expires


def _at(rule: Rule, exemption: Exemption, message: str) -> Remark:
    return Remark(exemption.location or rule.location, message, rule.location)


def _built_on(rule: Rule) -> set[str]:
    """Rules that a correlation counts, and building blocks that a condition names."""
    if isinstance(rule.detection, Correlation):
        return set(rule.detection.rules)
    return {block for signal in rule.signals if (block := signal.name.rpartition(".")[0])}


def _meaning(rule: Rule) -> Hashable:
    """Equal for rules that match on the same tokens of the same requests, whatever their names."""
    signals = {
        signal.name: (signal.aggregate, signal.comparison, signal.threshold, signal.upper)
        for signal in rule.signals
    }
    return (
        _meaning_of_detection(rule.detection, signals),
        rule.scope,
        rule.for_tokens,
        rule.keep_firing_for,
        rule.emit,
    )


def _meaning_of_detection(
    detection: Condition | StepSequence | Correlation, signals: Mapping[str, Hashable]
) -> Hashable:
    match detection:
        case Correlation():
            return detection
        case StepSequence(steps, within, unless):
            every = (*steps, unless) if unless else steps
            whens = tuple((_meaning_of(step.when, signals), step.phases) for step in every)
            return whens, within, unless is None
    return _meaning_of(detection, signals)


def _meaning_of(condition: Condition, signals: Mapping[str, Hashable]) -> Hashable:
    """The condition with its signals in place of their names, and operands in no order."""
    if isinstance(condition, Name):
        return signals[condition.name]
    operands = Counter(_meaning_of(operand, signals) for operand in operands_of(condition))
    count = condition.count if isinstance(condition, AtLeast) else None
    return type(condition), count, frozenset(operands.items())
