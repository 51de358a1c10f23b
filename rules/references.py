"""Checks the names in rule files that refer to other names, across all files of a set.

Works on the plain data, so that a rule with a misshapen key still has its other mistakes reported.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from saeguard.rules.conditions import RESERVED, ConditionError, names_in, parse_condition
from saeguard.rules.document import Document, KeyPath
from saeguard.rules.errors import Location, RuleError, did_you_mean
from saeguard.rules.syntax import COMPARISONS
from saeguard.rules.template import Mistake, parse_template

_Seen = dict[tuple[str, str], Location]


def reference_errors(documents: Sequence[Document], complete: bool) -> Iterator[RuleError]:
    """Everything wrong with names, comparisons, conditions and messages.

    Args:
        documents: the files.
        complete: whether these are all; else a feature may be unknown because its file is missing.
    """
    tables = [document.data.get("features", {}) for document in documents]
    complete = complete and all(isinstance(table, dict) for table in tables)
    features = [name for table in tables for name in _mapping(table)] if complete else None
    seen: _Seen = {}
    for document in documents:
        rules = document.data.get("rules")
        for index, item in enumerate(rules if isinstance(rules, list) else []):
            rule, at = _mapping(item), ("rules", index)
            yield from _repeated(document, at, rule, seen)
            yield from _wrong_signals(document, (*at, "signals"), rule, features)
            yield from _wrong_condition(document, at, rule)
            yield from _wrong_message(document, (*at, "message"), rule)


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _repeated(
    document: Document, at: KeyPath, rule: dict[str, Any], seen: _Seen
) -> Iterator[RuleError]:
    for key in ("id", "name"):
        if isinstance(value := rule.get(key), str):
            where = document.value_at((*at, key))
            first = seen.setdefault((key, value), where)
            if first is not where:
                yield where.error(f"{key} {value!r} is already taken by the rule at {first}")


def _wrong_signals(
    document: Document, at: KeyPath, rule: dict[str, Any], features: Sequence[str] | None
) -> Iterator[RuleError]:
    for name, item in _mapping(rule.get("signals")).items():
        signal = _mapping(item)
        if name in RESERVED:
            yield document.key_at((*at, name)).error(
                f"'{name}' is a word of the condition language"
            )
        if signal and sum(key in signal for key in COMPARISONS) != 1:
            yield document.key_at((*at, name)).error(
                f"signal '{name}' needs exactly one of {', '.join(COMPARISONS)}"
            )
        feature = signal.get("feature")
        if features is not None and isinstance(feature, str) and feature not in features:
            yield document.value_at((*at, name, "feature")).error(
                f"unknown feature '{feature}'{did_you_mean(feature, features)}"
            )


def _wrong_condition(document: Document, at: KeyPath, rule: dict[str, Any]) -> Iterator[RuleError]:
    text, signals = rule.get("condition"), _mapping(rule.get("signals"))
    if not isinstance(text, str) or not text:
        return
    try:
        mentions = list(names_in(parse_condition(text)))
    except ConditionError as error:
        yield document.value_at((*at, "condition"), error.offset).error(f"condition: {error}")
        return
    for mention in mentions:
        if mention.name not in signals:
            yield document.value_at((*at, "condition"), mention.offset).error(
                f"condition: unknown signal '{mention.name}'{did_you_mean(mention.name, signals)}"
            )
    for name in signals.keys() - {mention.name for mention in mentions}:
        yield document.key_at((*at, "signals", name)).error(f"signal '{name}' is never used")


def _wrong_message(document: Document, at: KeyPath, rule: dict[str, Any]) -> Iterator[RuleError]:
    text, signals = rule.get("message"), _mapping(rule.get("signals"))
    if not isinstance(text, str):
        return
    template, mistakes = parse_template(text)
    unknown = [
        Mistake(f"unknown signal '{name}'{did_you_mean(name, signals)}", placeholder.offset)
        for placeholder in template.placeholders()
        if placeholder.path[0] == "signal" and (name := placeholder.path[1]) not in signals
    ]
    for mistake in [*mistakes, *unknown]:
        yield document.value_at(at, mistake.offset).error(f"message: {mistake.message}")
