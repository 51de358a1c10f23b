"""Building blocks: conditions of other rules, put in where a condition names them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from graphlib import TopologicalSorter

from saeguard.rules.conditions import (
    MAX_DEPTH,
    And,
    AtLeast,
    Condition,
    Name,
    Not,
    Or,
    names_in,
    operands_of,
)
from saeguard.rules.model import Signal

MAX_NAMES = 500  # in one condition: with blocks of blocks they could double at each level


class TooLarge(Exception):
    """With its building blocks put in, a condition is larger than allowed."""


@dataclass(frozen=True, slots=True)
class BuildingBlock:
    """A condition, and the signals that it reads."""

    condition: Condition
    signals: tuple[Signal, ...]


@dataclass(frozen=True, slots=True)
class _Extent:
    num_names: int
    depth: int


class BlockLibrary:
    """All building blocks of a set; none may lead back to itself."""

    def __init__(self, blocks: Mapping[str, BuildingBlock]) -> None:
        self._blocks: dict[str, BuildingBlock] = {}
        self._extents: dict[str, _Extent] = {}
        mentioned = {
            name: [each.name for each in names_in(block.condition) if each.name in blocks]
            for name, block in blocks.items()
        }
        for name in TopologicalSorter(mentioned).static_order():
            self._extents[name] = self._extent(blocks[name].condition)
            if self._is_allowed(self._extents[name]):
                self._blocks[name] = self._as_seen_from_outside(name, blocks[name])

    def inline(self, condition: Condition) -> Condition:
        """The condition with blocks put in for their names.

        Raises:
            TooLarge: there would be too many names or levels.
        """
        extent = self._extent(condition)
        if not self._is_allowed(extent):
            raise TooLarge(
                f"with its building blocks the condition has {extent.num_names} names in "
                f"{extent.depth} levels; {MAX_NAMES} in {MAX_DEPTH} are allowed"
            )
        return _replace(condition, self._condition_of)

    def signals(self, condition: Condition) -> dict[str, Signal]:
        """The signals of the blocks that a condition names, called `block.signal`."""
        return {
            signal.name: signal
            for mention in names_in(condition)
            if mention.name in self._blocks
            for signal in self._blocks[mention.name].signals
        }

    def _as_seen_from_outside(self, name: str, block: BuildingBlock) -> BuildingBlock:
        own = {signal.name: Name(f"{name}.{signal.name}") for signal in block.signals}
        condition = _replace(
            block.condition, lambda mention: own.get(mention.name) or self._condition_of(mention)
        )
        signals = [replace(signal, name=own[signal.name].name) for signal in block.signals]
        return BuildingBlock(condition, (*signals, *self.signals(block.condition).values()))

    def _condition_of(self, mention: Name) -> Condition:
        block = self._blocks.get(mention.name)
        return mention if block is None else block.condition

    def _extent(self, condition: Condition) -> _Extent:
        if isinstance(condition, Name):
            return self._extents.get(condition.name, _Extent(1, 1))
        inner = [self._extent(operand) for operand in operands_of(condition)]
        return _Extent(
            sum(extent.num_names for extent in inner), 1 + max(extent.depth for extent in inner)
        )

    @staticmethod
    def _is_allowed(extent: _Extent) -> bool:
        return extent.num_names <= MAX_NAMES and extent.depth <= MAX_DEPTH


def _replace(condition: Condition, condition_of: Callable[[Name], Condition]) -> Condition:
    if isinstance(condition, Name):
        return condition_of(condition)
    inner = tuple(_replace(operand, condition_of) for operand in operands_of(condition))
    match condition:
        case Not():
            return Not(inner[0])
        case And():
            return And(inner)
        case Or():
            return Or(inner)
        case AtLeast(count):
            return AtLeast(count, inner)
