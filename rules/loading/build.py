"""From checked entries of rule files to the types of `model.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from saeguard.rules.conditions import Condition, parse_condition
from saeguard.rules.errors import Location
from saeguard.rules.loading import syntax
from saeguard.rules.loading.building_blocks import BlockLibrary, BuildingBlock
from saeguard.rules.loading.document import Document, KeyPath
from saeguard.rules.loading.units import parse_duration, parse_percentage, parse_tokens
from saeguard.rules.model import (
    Correlation,
    Exemption,
    Feature,
    Limit,
    ProbeFeature,
    RouterFeature,
    Rule,
    SaeFeature,
    Signal,
    Step,
    StepSequence,
)
from saeguard.rules.phases import Phase
from saeguard.rules.scope import Scope
from saeguard.rules.template import parse_template

_NUMBERS = (
    "for",
    "keep_firing_for",
    "sequence.within",
    "correlate.gt",
    "correlate.gte",
    "correlate.timespan",
)


def build_feature(document: Document, name: str, entry: syntax.AnyFeature) -> Feature:
    """A feature; paths are relative to its file."""
    folder, location = document.path.parent, document.key_at(("features", name))
    source: SaeFeature | ProbeFeature | RouterFeature
    match entry:
        case syntax.SaeFeatureEntry(sae=sae):
            path = (folder / sae.path).resolve()
            source = SaeFeature(
                path,
                entry.index,
                sae.layer,
                sae.release,
                sae.model,
                sae.norm_scaling_factor,
                sae.neuronpedia,
            )
        case syntax.ProbeFeatureEntry(probe=probe):
            source = ProbeFeature((folder / probe.path).resolve(), entry.name or name)
        case syntax.RouterFeatureEntry(router=router):
            source = RouterFeature(router.layer, entry.expert)
    units = "raw" if isinstance(entry, syntax.ProbeFeatureEntry) else entry.units
    return Feature(name, entry.label, units, source, entry.max, location=location)


class RuleBuilder:
    """Builds the rules of a set.

    Args:
        files: all of them, without mistakes.
        signals: each rule's own.
    """

    def __init__(
        self, files: Sequence[syntax.RuleFile], signals: Mapping[str, tuple[Signal, ...]]
    ) -> None:
        self._signals = signals
        self._lists = {name: texts for file in files for name, texts in file.lists.items()}
        self._blocks = BlockLibrary(
            {
                rule.name: BuildingBlock(self._parse(rule.condition, rule.name), signals[rule.name])
                for file in files
                for rule in file.rules
                if isinstance(rule, syntax.ConditionRuleEntry) and not rule.emit
            }
        )

    def build(self, entry: syntax.AnyRule, document: Document, path: KeyPath) -> Rule:
        """The rule that the document has at a path.

        Raises:
            TooLarge: a condition is, with its building blocks.
        """
        special = (
            self._correlation(entry)
            if isinstance(entry, syntax.CorrelationRuleEntry)
            else self._of_tokens(entry)
        )
        limit = entry.limit
        return Rule(
            id=entry.id,
            name=entry.name,
            title=entry.title,
            description=entry.description,
            status=entry.status,
            severity=entry.severity,
            limit=Limit(limit.per, limit.max, parse_duration(limit.every) if limit.every else None),
            exceptions=tuple(
                self._exemption(each, document.value_at((*path, "exceptions", index)))
                for index, each in enumerate(entry.exceptions)
            ),
            emit=entry.emit,
            action=entry.action,
            mandatory=entry.mandatory,
            tags=tuple(entry.tags),
            falsepositives=tuple(entry.falsepositives),
            references=tuple(entry.references),
            changes=tuple(document.changes.get(path, ())),
            places=_places(document, path),
            location=document.value_at(path),
            **special,
        )

    def _correlation(self, entry: syntax.CorrelationRuleEntry) -> dict[str, Any]:
        """Temporal types are counts too: of the rules that matched, which must be all."""
        correlate = entry.correlate
        threshold = correlate.gte if correlate.gt is None else correlate.gt
        detection = Correlation(
            type=correlate.type,
            rules=tuple(correlate.rules),
            group_by=tuple(correlate.group_by),
            timespan_s=parse_duration(correlate.timespan),
            comparison="gte" if correlate.gt is None else "gt",
            threshold=len(correlate.rules) if threshold is None else threshold,
            field=correlate.field,
        )
        return {
            "detection": detection,
            "scope": Scope(frozenset()),
            "signals": (),
            "message": parse_template(entry.message, correlate.group_by)[0],
        }

    def _of_tokens(
        self, entry: syntax.ConditionRuleEntry | syntax.SequenceRuleEntry
    ) -> dict[str, Any]:
        scope = self._scope(entry.scope)
        keys: dict[str, Any] = {
            "scope": scope,
            "min_coverage": parse_percentage(entry.min_coverage) / 100,
            "message": parse_template(entry.message)[0],
        }
        if isinstance(entry, syntax.SequenceRuleEntry):
            return keys | self._sequence(entry, scope)
        keep = entry.keep_firing_for
        condition = self._parse(entry.condition, entry.name)
        return keys | {
            "detection": self._blocks.inline(condition),
            "signals": (*self._signals[entry.name], *self._blocks.signals(condition).values()),
            "for_tokens": parse_tokens(entry.for_),
            "keep_firing_for": parse_tokens(keep) if keep else 0,
        }

    def _sequence(self, entry: syntax.SequenceRuleEntry, scope: Scope) -> dict[str, Any]:
        signals = {signal.name: signal for signal in self._signals[entry.name]}

        def step(each: syntax.StepEntry) -> Step:
            condition = self._parse(each.when, entry.name)
            signals.update(self._blocks.signals(condition))
            phases = _phases(each.phase) if each.phase else scope.phases
            return Step(self._blocks.inline(condition), phases)

        sequence = entry.sequence
        steps = tuple(map(step, sequence.steps))
        unless = step(sequence.unless) if sequence.unless else None
        return {
            "detection": StepSequence(steps, parse_tokens(sequence.within), unless),
            "signals": tuple(signals.values()),
        }

    def _parse(self, condition: str, rule: str) -> Condition:
        return parse_condition(condition, [signal.name for signal in self._signals[rule]])

    def _scope(self, entry: syntax.ScopeEntry) -> Scope:
        return Scope(
            phases=_phases(entry.phase),
            models=self._expand(entry.model),
            loras=self._expand(entry.lora),
            tenants=self._expand(entry.tenant),
        )

    def _exemption(self, entry: syntax.ExceptionEntry, location: Location) -> Exemption:
        who = entry.when
        return Exemption(
            name=entry.name,
            reason=entry.reason,
            tenants=self._expand(who.tenant),
            models=self._expand(who.model),
            loras=self._expand(who.lora),
            clients=self._expand(who.client),
            expires=entry.expires,
            location=location,
        )

    def _expand(self, texts: Sequence[str] | None) -> tuple[str, ...]:
        """With the contents of lists in place of their `$name`s."""
        return tuple(
            each
            for text in texts or ()
            for each in (self._lists[text[1:]] if text.startswith("$") else (text,))
        )


def _places(document: Document, rule: KeyPath) -> dict[str, Location]:
    """Where the numbers are written that belong to no signal."""
    paths = {number: (*rule, *number.split(".")) for number in _NUMBERS}
    return {n: document.value_at(path) for n, path in paths.items() if document.has(path)}


def _phases(names: Sequence[str]) -> frozenset[Phase]:
    return frozenset(map(Phase.parse, names))
