"""Loads rule files: read, check shape and names, build. All mistakes are reported at once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from saeguard.rules import syntax
from saeguard.rules.conditions import parse_condition
from saeguard.rules.document import Document, read_document
from saeguard.rules.errors import Location, RuleError, RuleErrors
from saeguard.rules.model import (
    Aggregate,
    Comparison,
    Feature,
    Limit,
    ProbeFeature,
    Rule,
    RuleSet,
    SaeFeature,
    Signal,
)
from saeguard.rules.phases import Phase
from saeguard.rules.references import reference_errors
from saeguard.rules.scope import Scope
from saeguard.rules.shape import parse_shape
from saeguard.rules.template import parse_template


def load_rules(paths: Sequence[Path]) -> RuleSet:
    """Load one rule set from one or several files.

    Rules may use features of any of the files. A feature may be defined in several of them if the
    definitions are equal. Paths in a file are relative to that file; nothing here opens them.

    Raises:
        RuleErrors: everything that is wrong, each with its place.
        ValueError: `paths` is empty.
    """
    if not paths:
        raise ValueError("no rule files given")
    documents, errors = _read(paths)
    files = []
    for document in documents:
        file, shape_errors = parse_shape(document)
        errors += document.errors + shape_errors
        if file is not None:
            files.append((document, file))
    errors += reference_errors(documents, complete=len(documents) == len(paths))
    features = _features(files, errors)
    if not errors and not any(file.rules for _, file in files):
        errors.append(Location(paths[0]).error("no rules in the file(s)"))
    if errors:
        raise RuleErrors(errors)
    return RuleSet(
        name="+".join(dict.fromkeys(file.ruleset.name for _, file in files)),
        version="+".join(dict.fromkeys(file.ruleset.version for _, file in files)),
        sha256=hashlib.sha256(b"".join(document.content for document in documents)).hexdigest(),
        features=features,
        rules=tuple(rule for document, file in files for rule in _rules(document, file)),
    )


def _read(paths: Sequence[Path]) -> tuple[list[Document], list[RuleError]]:
    documents: list[Document] = []
    errors: list[RuleError] = []
    for path in paths:
        try:
            documents.append(read_document(path))
        except RuleErrors as error:
            errors += error.errors
    return documents, errors


def _features(
    files: Sequence[tuple[Document, syntax.RuleFile]], errors: list[RuleError]
) -> dict[str, Feature]:
    features: dict[str, Feature] = {}
    for document, file in files:
        for name, entry in file.features.items():
            feature = _feature(document, name, entry)
            first = features.setdefault(name, feature)
            if first != feature:
                errors.append(
                    feature.location.error(f"feature '{name}' differs from {first.location}")
                )
    return features


def _feature(
    document: Document, name: str, entry: syntax.SaeFeatureEntry | syntax.ProbeFeatureEntry
) -> Feature:
    folder, location = document.path.parent, document.key_at(("features", name))
    if isinstance(entry, syntax.ProbeFeatureEntry):
        probe = ProbeFeature((folder / entry.probe.path).resolve(), entry.name or name)
        return Feature(name, entry.label, "raw", probe, location=location)
    sae = entry.sae
    row = SaeFeature((folder / sae.path).resolve(), entry.index, sae.layer, sae.release, sae.model)
    return Feature(name, entry.label, entry.units, row, location=location)


def _rules(document: Document, file: syntax.RuleFile) -> list[Rule]:
    return [
        Rule(
            id=entry.id,
            name=entry.name,
            title=entry.title,
            description=entry.description,
            status=entry.status,
            severity=entry.severity,
            scope=_scope(entry.scope),
            signals=tuple(_signal(name, signal) for name, signal in entry.signals.items()),
            detection=parse_condition(entry.condition),
            for_tokens=_tokens(entry.for_),
            limit=Limit(entry.limit.per, entry.limit.max),
            message=parse_template(entry.message)[0],
            tags=tuple(entry.tags),
            falsepositives=tuple(entry.falsepositives),
            references=tuple(entry.references),
            location=document.value_at(("rules", index)),
        )
        for index, entry in enumerate(file.rules)
    ]


def _scope(entry: syntax.ScopeEntry) -> Scope:
    return Scope(
        phases=frozenset(map(Phase.parse, entry.phase)),
        models=tuple(entry.model or ()),
        loras=tuple(entry.lora or ()),
        tenants=tuple(entry.tenant or ()),
    )


def _signal(name: str, entry: syntax.AnySignal) -> Signal:
    for comparison in get_args(Comparison):
        if (threshold := getattr(entry, comparison)) is not None:
            return Signal(name, _aggregate(entry), comparison, threshold)
    raise AssertionError(f"signal {name} has no comparison")  # reference_errors saw to it


def _aggregate(entry: syntax.AnySignal) -> Aggregate:
    match entry:
        case syntax.ValueSignal():
            return Aggregate((entry.feature,), entry.agg)
        case syntax.EmaSignal():
            return Aggregate((entry.feature,), entry.agg, tokens=_tokens(entry.half_life))
        case syntax.CountSignal():
            return Aggregate(
                (entry.feature,), entry.agg, tokens=_tokens(entry.window), over=entry.over
            )
        case _:
            return Aggregate((entry.feature,), entry.agg, tokens=_tokens(entry.window))


def _tokens(text: str) -> int:
    return int(text.split()[0])
