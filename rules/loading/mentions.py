"""The names in conditions: of signals, and of building blocks, which lend their conditions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from saeguard.rules.conditions import RESERVED, ConditionError, names_in, parse_condition
from saeguard.rules.errors import Location, RuleError, did_you_mean
from saeguard.rules.loading.cycles import find_cycles
from saeguard.rules.loading.document import KeyPath
from saeguard.rules.loading.raw import RawRule


@dataclass(frozen=True, slots=True)
class Mention:
    """A name in a condition of a rule."""

    name: str
    rule: RawRule
    path: KeyPath
    """Of the condition, in the rule."""
    offset: int

    @property
    def location(self) -> Location:
        return self.rule.value_at(*self.path, offset=self.offset)

    def error(self, message: str) -> RuleError:
        return self.location.error(f"{self.path[-1]}: {message}")


class Mentions:
    """What every rule's conditions name, and what is wrong with that in `errors`.

    Args:
        rules: all rules of the set.
        complete: whether these are all; else a name may be unknown because its file is missing.
    """

    def __init__(self, rules: Sequence[RawRule], complete: bool) -> None:
        self._rules = {rule.name: rule for rule in rules if rule.name}
        self._block_names = {name: None for name, rule in self._rules.items() if rule.is_block}
        self._complete = complete
        self._blocks: dict[str | None, dict[str, Mention]] = {}
        self._misread: set[str | None] = set()
        self.errors: list[RuleError] = []
        for rule in rules:
            self._read(rule)
        named = {name: self._blocks[name] for name in self._block_names}
        for cycle in find_cycles({name: list(mentions) for name, mentions in named.items()}):
            mention = named[cycle[0]][cycle[1]]
            names = " -> ".join(cycle)
            self.errors.append(mention.error(f"building blocks that stand for each other: {names}"))

    def unknown_signals(self, rule: RawRule, names: Sequence[str]) -> Iterator[tuple[str, str]]:
        """Those that are neither the rule's signals nor of its building blocks, and what to say.

        Where the condition could not be understood, `block.signal` may be anything.
        """
        known = self._signals(rule)
        for name in names:
            if name not in known and not ("." in name and rule.name in self._misread):
                yield name, f"unknown signal '{name}'{did_you_mean(name, known)}"

    def _signals(self, rule: RawRule) -> list[str]:
        signals, found = list(rule.signals), set[str]()
        pending = list(self._blocks.get(rule.name, ()))
        while pending:
            name = pending.pop()
            if name not in found:
                found.add(name)
                signals += [f"{name}.{signal}" for signal in self._rules[name].signals]
                pending += self._blocks[name]
        return signals

    def _read(self, rule: RawRule) -> None:
        mentions, errors = _read(rule)
        for mention in mentions:
            if problem := self._problem(mention):
                errors.append(mention.error(problem))
        if errors:
            self._misread.add(rule.name)
        elif mentions:
            errors += _unused(rule, mentions)
        self.errors += errors
        blocks = self._blocks[rule.name] = {}
        for mention in mentions:
            if mention.name in self._block_names and mention.name not in rule.signals:
                blocks.setdefault(mention.name, mention)

    def _problem(self, mention: Mention) -> str | None:
        name, rule, block = mention.name, mention.rule, self._rules.get(mention.name)
        if name in rule.signals:
            is_ambiguous = block is not None and block.is_block
            return f"'{name}' is both a signal and a building block" if is_ambiguous else None
        if block is None:
            known = [*rule.signals, *self._block_names]
            unknown = f"unknown signal '{name}'{did_you_mean(name, known)}"
            if name == "them":
                unknown = "unknown signal 'them'; all signals of the rule are *, as in `1 of *`"
            return unknown if self._complete else None
        if not block.is_block:
            return f"rule '{name}' is no building block: that needs a condition and emit: false"
        return _lost(block, rule)


def _lost(block: RawRule, rule: RawRule) -> str | None:
    """What of a block would not apply where only its condition is taken."""
    lost = [key for key in ("for", "keep_firing_for") if key in block.data]
    if "scope" in block.data and block.data["scope"] != rule.data.get("scope"):
        lost.append("scope")
    if not lost:
        return None
    return (
        f"the {lost[0]} of building block '{block.name}' would be lost: it lends its condition only"
    )


def _read(rule: RawRule) -> tuple[list[Mention], list[RuleError]]:
    mentions: list[Mention] = []
    errors: list[RuleError] = []
    for path, text in rule.conditions():
        try:
            names = names_in(parse_condition(text, rule.signals))
            mentions += [Mention(name.name, rule, path, name.offset) for name in names]
        except ConditionError as error:
            where = rule.value_at(*path, offset=error.offset)
            errors.append(where.error(f"{path[-1]}: {error}"))
    return mentions, errors


def _unused(rule: RawRule, mentions: Sequence[Mention]) -> Iterator[RuleError]:
    for name in rule.signals.keys() - {mention.name for mention in mentions} - RESERVED:
        yield rule.key_at("signals", name).error(f"signal '{name}' is never used")
