"""Rules as the files have them, before their shape is known to be right.

Checks that work on these report a rule's mistakes even when others of its keys are misshapen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from saeguard.rules.errors import Location
from saeguard.rules.loading.document import Document, KeyPath


@dataclass(frozen=True, slots=True)
class RawRule:
    """One entry of `rules`."""

    document: Document
    path: KeyPath
    data: Mapping[str, Any]

    @property
    def name(self) -> str | None:
        return text_or_none(self.data.get("name"))

    @property
    def signals(self) -> Mapping[str, Any]:
        return mapping(self.data.get("signals"))

    @property
    def is_block(self) -> bool:
        """Whether conditions may name it: no alert, and a condition to stand for."""
        return self.data.get("emit") is False and "condition" in self.data

    def conditions(self) -> Iterator[tuple[KeyPath, str]]:
        """Every condition's text, and its path in the rule."""
        sequence = mapping(self.data.get("sequence"))
        steps = [
            (("sequence", "steps", i), step) for i, step in enumerate(items(sequence.get("steps")))
        ]
        unless = (("sequence", "unless"), sequence.get("unless"))
        for path, step in [*steps, unless]:
            if text := text_or_none(mapping(step).get("when")):
                yield (*path, "when"), text
        if text := text_or_none(self.data.get("condition")):
            yield ("condition",), text

    def value_at(self, *path: str | int, offset: int | None = None) -> Location:
        return self.document.value_at((*self.path, *path), offset)

    def key_at(self, *path: str | int) -> Location:
        return self.document.key_at((*self.path, *path))


def raw_rules(documents: Sequence[Document]) -> list[RawRule]:
    """Every entry of every file that is a mapping at least."""
    return [
        RawRule(document, ("rules", index), rule)
        for document in documents
        for index, rule in enumerate(items(document.data.get("rules")))
        if isinstance(rule, dict)
    ]


def mapping(value: object) -> Mapping[str, Any]:
    """The value, or nothing when it is something else."""
    return value if isinstance(value, dict) else {}


def items(value: object) -> Sequence[Any]:
    """The value, or nothing when it is something else."""
    return value if isinstance(value, list) else ()


def texts(value: object) -> list[str]:
    """The texts among the items of a value."""
    return [item for item in items(value) if isinstance(item, str)]


def text_or_none(value: object) -> str | None:
    """The value when it is a text with something in it."""
    return value if isinstance(value, str) and value else None
