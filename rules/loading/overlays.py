"""Overlays: changes to rules, made before anything is checked.

The changed rule is then checked like any other. What an overlay put into it remembers where the
overlay has it, so a mistake is reported there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from saeguard.rules.errors import RuleError, did_you_mean
from saeguard.rules.loading.document import Document, KeyPath
from saeguard.rules.loading.raw import RawRule, items, mapping, raw_rules, text_or_none
from saeguard.rules.loading.spelling import OVERLAY_PATH
from saeguard.rules.model import Change

_OPTIONAL = ("scope", "limit")  # mappings that a path may reach into where the rule has none
_FIXED = ("id", "name")


def apply_overlays(documents: Sequence[Document], complete: bool) -> Iterator[RuleError]:
    """Change the rules' data as the overlays of all files say, in their order.

    Args:
        documents: the files.
        complete: whether these are all; else a rule may be unknown because its file is missing.
    """
    rules = {rule.name: rule for rule in raw_rules(documents) if rule.name}
    for document in documents:
        for index, item in enumerate(items(document.data.get("overlays"))):
            overlay, at = mapping(item), ("overlays", index)
            name = text_or_none(overlay.get("rule"))
            if name is None:
                continue  # its shape is wrong, which is reported as such
            if rule := rules.get(name):
                yield from _set(rule, document, (*at, "set"), mapping(overlay.get("set")))
                _add_exceptions(rule, document, (*at, "add_exceptions"), overlay)
            elif complete:
                where = document.value_at((*at, "rule"))
                yield where.error(f"unknown rule '{name}'{did_you_mean(name, rules)}")


def _set(
    rule: RawRule, document: Document, at: KeyPath, changes: Mapping[str, Any]
) -> Iterator[RuleError]:
    for text in changes:
        if not re.fullmatch(OVERLAY_PATH, text):
            continue  # reported with the overlay's shape
        path = tuple(text.split("."))
        problem = _unreachable(rule, document, (*at, text), path)
        if problem:
            yield document.key_at((*at, text)).error(problem)
        else:
            before = mapping(rule.document.lookup((*rule.path, *path[:-1]))).get(path[-1])
            rule.document.graft((*rule.path, *path), document, (*at, text))
            _remember(rule, Change(text, document.key_at((*at, text)), before))


def _unreachable(
    rule: RawRule, document: Document, source: KeyPath, path: tuple[str, ...]
) -> str | None:
    """Why the path leads nowhere, or None after making sure that it leads somewhere."""
    if path[0] in _FIXED:
        return f"an overlay cannot change the {path[0]} of a rule"
    if len(path) > 1 and path[0] in _OPTIONAL and path[0] not in rule.data:
        rule.document.graft((*rule.path, path[0]), document, source, {})
    place: Any = rule.data
    for depth, key in enumerate(path[:-1]):
        if not isinstance(place, dict) or key not in place:
            above = ".".join(path[:depth]) or f"rule '{rule.name}'"
            return f"unknown path: {above} has no '{key}'{did_you_mean(key, mapping(place))}"
        place = place[key]
    if not isinstance(place, dict):
        return f"unknown path: {'.'.join(path[:-1])} has no keys"
    return None


def _add_exceptions(
    rule: RawRule, document: Document, at: KeyPath, overlay: Mapping[str, Any]
) -> None:
    added = items(overlay.get("add_exceptions"))
    place = (*rule.path, "exceptions")
    if added and "exceptions" not in rule.data:
        rule.document.graft(place, document, at, [])
    present: Any = rule.data.get("exceptions")
    for index in range(len(added)) if isinstance(present, list) else ():
        rule.document.graft((*place, len(present)), document, (*at, index))
    if added:
        _remember(rule, Change("exceptions", document.key_at(at)))


def _remember(rule: RawRule, change: Change) -> None:
    rule.document.changes.setdefault(rule.path, []).append(change)
