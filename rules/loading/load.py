"""Loads rule files: read, overlay, check shape and names, build. All mistakes come at once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from saeguard.rules.errors import Location, RuleError, RuleErrors
from saeguard.rules.loading import syntax
from saeguard.rules.loading.build import RuleBuilder, build_feature
from saeguard.rules.loading.build_signals import SignalBuilder
from saeguard.rules.loading.building_blocks import TooLarge
from saeguard.rules.loading.document import Document, read_document
from saeguard.rules.loading.overlays import apply_overlays
from saeguard.rules.loading.references import needs_errors, reference_errors
from saeguard.rules.loading.shape import parse_shape
from saeguard.rules.loading.sources import all_rule_files
from saeguard.rules.model import Feature, Rule, RuleSet, Signal

_File = tuple[Document, syntax.RuleFile]


def load_rules(items: Sequence[Path | str]) -> RuleSet:
    """Load one rule set from files, directories and packs (`pack:deception`).

    Names are shared by all of them. A feature may be defined in several if the definitions are
    equal. Paths in a file are relative to that file; nothing here opens them.

    Raises:
        RuleErrors: everything that is wrong, each with its place.
        ValueError: `items` is empty.
    """
    if not items:
        raise ValueError("no rule files given")
    documents, errors = _read(items)
    complete = not errors
    errors += needs_errors(documents, complete)
    errors += apply_overlays(documents, complete)
    files: list[_File] = []
    for document in documents:
        file, shape_errors = parse_shape(document)
        errors += document.errors + shape_errors
        if file is not None:
            files.append((document, file))
    errors += reference_errors(documents, complete)
    features = _features(files, errors)
    signals = _signals(files, features, errors)
    if not errors and not any(file.rules for _, file in files):
        errors.append(Location(documents[0].path).error("no rules in the file(s)"))
    if errors:
        raise RuleErrors(errors)
    return RuleSet(
        name="+".join(dict.fromkeys(file.ruleset.name for _, file in files)),
        version="+".join(dict.fromkeys(file.ruleset.version for _, file in files)),
        sha256=hashlib.sha256(b"".join(document.content for document in documents)).hexdigest(),
        features=features,
        rules=_rules(files, signals),
    )


def _read(items: Sequence[Path | str]) -> tuple[list[Document], list[RuleError]]:
    documents: list[Document] = []
    paths, errors = all_rule_files(items)
    for path in paths:
        try:
            documents.append(_rule_document(path))
        except RuleErrors as error:
            errors += error.errors
    return documents, errors


def _rule_document(path: Path) -> Document:
    document = read_document(path)
    keys = document.data.keys()
    if {"rules", "watchlist"} <= keys and "ruleset" not in keys:
        message = "this is a server's configuration, not rules: see docs/configuration.md"
        raise RuleErrors([Location(path).error(message)])
    return document


def _features(files: Sequence[_File], errors: list[RuleError]) -> dict[str, Feature]:
    features: dict[str, Feature] = {}
    for document, file in files:
        for name, entry in file.features.items():
            feature = build_feature(document, name, entry)
            first = features.setdefault(name, feature)
            if first != feature:
                errors.append(
                    feature.location.error(f"feature '{name}' differs from {first.location}")
                )
    return features


def _signals(
    files: Sequence[_File], features: dict[str, Feature], errors: list[RuleError]
) -> dict[str, tuple[Signal, ...]]:
    """Each rule's own signals."""
    builder = SignalBuilder(features)
    signals = {}
    for document, file in files:
        for index, rule in enumerate(file.rules):
            if isinstance(rule, syntax.SignalRuleEntry):
                at = ("rules", index, "signals")
                built = [
                    builder.build(name, entry, document, (*at, name))
                    for name, entry in rule.signals.items()
                ]
                signals[rule.name] = tuple(signal for signal in built if signal is not None)
    errors += builder.errors
    return signals


def _rules(files: Sequence[_File], signals: dict[str, tuple[Signal, ...]]) -> tuple[Rule, ...]:
    builder = RuleBuilder([file for _, file in files], signals)
    rules: list[Rule] = []
    errors: list[RuleError] = []
    for document, file in files:
        for index, entry in enumerate(file.rules):
            path = ("rules", index)
            try:
                rules.append(builder.build(entry, document, path))
            except TooLarge as error:
                errors.append(document.value_at(path).error(str(error)))
    if errors:
        raise RuleErrors(errors)
    return tuple(rules)
