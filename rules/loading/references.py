"""Checks the names in rule files that refer to other names, across all files of a set.

Works on the plain data, so that a rule with a misshapen key still has its other mistakes reported.
The names in conditions are in `mentions.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from saeguard.rules.conditions import RESERVED
from saeguard.rules.errors import Location, RuleError, did_you_mean
from saeguard.rules.loading.cycles import find_cycles
from saeguard.rules.loading.document import Document, KeyPath
from saeguard.rules.loading.mentions import Mentions
from saeguard.rules.loading.raw import RawRule, items, mapping, raw_rules, text_or_none, texts
from saeguard.rules.loading.sources import PACKS
from saeguard.rules.loading.spelling import MAX_TEXTS
from saeguard.rules.template import Mistake, parse_template


def reference_errors(documents: Sequence[Document], complete: bool) -> Iterator[RuleError]:
    """Everything wrong with names, conditions and messages.

    Args:
        documents: the files.
        complete: whether these are all; else a name may be unknown because its file is missing.
    """
    rules = raw_rules(documents)
    mentions = Mentions(rules, complete)
    yield from _repeated_rules(rules)
    yield from mentions.errors
    for rule in rules:
        yield from _wrong_signal_names(rule)
        yield from _wrong_message(rule, mentions)
        yield from _repeated_exceptions(rule)
        yield from _wrong_switches(rule)
    yield from _correlation_cycles(rules)
    if complete:
        yield from _unknown_features(documents, rules)
        yield from _unknown_rules(rules)
        yield from _wrong_lists(documents, rules)


def needs_errors(documents: Sequence[Document], complete: bool) -> Iterator[RuleError]:
    """Needed features that no rule of the file uses, or that no file defines.

    To be asked before overlays are applied: they may have a pack's rule read another feature.
    """
    defined = {name for each in documents for name in mapping(each.data.get("features"))}
    for document in documents:
        used = {name for rule in raw_rules([document]) for name, _ in _feature_names(rule)}
        owner = mapping(document.data.get("ruleset")).get("name")
        help_ = "; `saeguard packs mapping` prints one" if document.path.parent == PACKS else ""
        for name, meaning in mapping(document.data.get("needs")).items():
            where = document.key_at(("needs", name))
            if name not in used:
                yield where.error(f"no rule here uses '{name}'")
            elif name not in defined and complete:
                yield where.error(
                    f"the rules of '{owner}' need the feature '{name}' ({meaning}), and no file "
                    f"defines it; add a mapping file with `features: {{{name}: ...}}`{help_}"
                )


def _repeated_rules(rules: Sequence[RawRule]) -> Iterator[RuleError]:
    seen: dict[tuple[str, str], Location] = {}
    for rule in rules:
        for key in ("id", "name"):
            if isinstance(value := rule.data.get(key), str):
                where = rule.value_at(key)
                first = seen.setdefault((key, value), where)
                if first is not where:
                    yield where.error(f"{key} {value!r} is already taken by the rule at {first}")


def _wrong_signal_names(rule: RawRule) -> Iterator[RuleError]:
    for name in rule.signals:
        if name in RESERVED:
            where = rule.key_at("signals", name)
            yield where.error(f"'{name}' is a word of the condition language")


def _wrong_message(rule: RawRule, mentions: Mentions) -> Iterator[RuleError]:
    text = rule.data.get("message")
    if not isinstance(text, str):
        return
    correlate = rule.data.get("correlate")
    group_by = texts(mapping(correlate).get("group_by")) if correlate is not None else None
    template, mistakes = parse_template(text, group_by)
    named = [each for each in template.placeholders() if each.path[0] == "signal"]
    offsets = {each.path[1]: each.offset for each in named}
    unknown = [
        Mistake(problem, offsets[name])
        for name, problem in mentions.unknown_signals(rule, list(offsets))
    ]
    for mistake in [*mistakes, *unknown]:
        yield rule.value_at("message", offset=mistake.offset).error(f"message: {mistake.message}")


def _repeated_exceptions(rule: RawRule) -> Iterator[RuleError]:
    seen: set[str] = set()
    for index, item in enumerate(items(rule.data.get("exceptions"))):
        if name := text_or_none(mapping(item).get("name")):
            if name in seen:
                where = rule.value_at("exceptions", index, "name")
                yield where.error(f"the rule has an exception '{name}' already")
            seen.add(name)


def _wrong_switches(rule: RawRule) -> Iterator[RuleError]:
    for key in ("emit", "mandatory"):
        value = rule.data.get(key)
        word = rule.document.written_at((*rule.path, key)) if isinstance(value, bool) else ""
        if word.lower() not in ("", "true", "false"):
            yield rule.value_at(key).error(f"{key}: write {str(value).lower()} instead of {word}")
    in_vain = "a rule with emit: false raises no alert, so"
    if rule.data.get("emit") is False and rule.data.get("action") == "stop":
        yield rule.value_at("action").error(f"action: {in_vain} it stops nothing")
    if rule.data.get("emit") is False and rule.data.get("mandatory") is True:
        yield rule.value_at("mandatory").error(f"mandatory: {in_vain} none can be opted out of")


def _correlated(rule: RawRule) -> Iterator[tuple[int, str]]:
    for index, name in enumerate(items(mapping(rule.data.get("correlate")).get("rules"))):
        if isinstance(name, str):
            yield index, name


def _correlation_cycles(rules: Sequence[RawRule]) -> Iterator[RuleError]:
    by_name = {rule.name: rule for rule in rules if rule.name}
    named = {
        name: [other for _, other in _correlated(rule) if other in by_name]
        for name, rule in by_name.items()
    }
    for cycle in find_cycles(named):
        rule = by_name[cycle[0]]
        index = next(i for i, name in _correlated(rule) if name == cycle[1])
        where = rule.value_at("correlate", "rules", index)
        yield where.error(f"correlations that wait for each other: {' -> '.join(cycle)}")


def _unknown_rules(rules: Sequence[RawRule]) -> Iterator[RuleError]:
    known = {rule.name for rule in rules if rule.name}
    for rule in rules:
        for index, name in _correlated(rule):
            if name not in known:
                where = rule.value_at("correlate", "rules", index)
                yield where.error(f"unknown rule '{name}'{did_you_mean(name, known)}")


def _feature_names(rule: RawRule) -> Iterator[tuple[str, KeyPath]]:
    """Every mention of a feature, with its path in the rule."""
    for name, item in rule.signals.items():
        signal, at = mapping(item), ("signals", name)
        if feature := text_or_none(signal.get("feature")):
            yield feature, (*at, "feature")
        for index, member in enumerate(items(signal.get("features"))):
            if isinstance(member, str):
                yield member, (*at, "features", index)


def _unknown_features(
    documents: Sequence[Document], rules: Sequence[RawRule]
) -> Iterator[RuleError]:
    """A needed feature counts as known: that it is missing is reported once, where it is needed."""
    tables = [each.data.get(key, {}) for each in documents for key in ("features", "needs")]
    if not all(isinstance(table, dict) for table in tables):
        return
    known = {name for table in tables for name in table}
    for rule in rules:
        for name, path in _feature_names(rule):
            if name not in known:
                where = rule.value_at(*path)
                yield where.error(f"unknown feature '{name}'{did_you_mean(name, known)}")


def _wrong_lists(documents: Sequence[Document], rules: Sequence[RawRule]) -> Iterator[RuleError]:
    tables = [(each, mapping(each.data.get("lists"))) for each in documents]
    defined: dict[str, tuple[Document, Sequence[object]]] = {}
    for document, table in tables:
        for name, value in table.items():
            content = items(value)
            first, same = defined.setdefault(name, (document, content))
            if same != content:
                where = document.key_at(("lists", name))
                yield where.error(f"list '{name}' differs from {first.key_at(('lists', name))}")
            for index, item in enumerate(texts(content)):
                if item.startswith("$"):
                    where = document.value_at(("lists", name, index))
                    yield where.error(f"{item}: a list cannot hold another list")
    sizes = {name: len(content) for name, (_, content) in defined.items()}
    used: set[str] = set()
    for rule in rules:
        for path, names in _list_names(rule):
            used.update(names.values())
            for index, name in names.items():
                if name not in sizes:
                    where = rule.value_at(*path, index)
                    yield where.error(f"unknown list '${name}'{did_you_mean(name, sizes)}")
            if sum(sizes.get(name, 0) for name in names.values()) > MAX_TEXTS:
                yield rule.value_at(*path).error(f"more than {MAX_TEXTS:,} texts in its lists")
    for document, table in tables:
        for name in table.keys() - used:
            yield document.key_at(("lists", name)).error(f"list '{name}' is never used")


def _list_names(rule: RawRule) -> Iterator[tuple[KeyPath, dict[int, str]]]:
    """Every list of texts in which `$name`s may stand, with the names and their places in it."""
    exceptions = enumerate(items(rule.data.get("exceptions")))
    places: list[tuple[KeyPath, object]] = [
        (("scope",), rule.data.get("scope")),
        *((("exceptions", i, "when"), mapping(item).get("when")) for i, item in exceptions),
    ]
    for path, who in places:
        for key, values in mapping(who).items():
            # A `$name` without its brackets is misshapen, which is said; it uses the list.
            texts = enumerate([values] if isinstance(values, str) else items(values))
            yield (
                (*path, key),
                {i: x[1:] for i, x in texts if isinstance(x, str) and x.startswith("$")},
            )
