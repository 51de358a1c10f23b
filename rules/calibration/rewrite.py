"""Sets a number in a rule file and leaves all else of it as it is: comments, order, style."""

from __future__ import annotations

from pathlib import Path

import yaml

from saeguard.rules.errors import Location
from saeguard.rules.model import Rule, Signal


class CannotRewrite(ValueError):
    """The number is not written where it can be set; the message says where it comes from."""


def set_threshold(text: str, path: Path, rule: Rule, signal: Signal, threshold: float) -> str:
    """The file's text with another threshold for one signal.

    Args:
        text: of the file in which the rule stands.
        path: of the same, for messages.
        rule: as it was loaded from there.
        signal: one of its own.
        threshold: the new one.

    Raises:
        CannotRewrite: an overlay sets the number, or it is written by way of an alias.
    """
    key = f"signals.{signal.name}.{signal.comparison}"
    for change in rule.changes:
        if key.startswith(change.path):
            raise CannotRewrite(f"{change.location}: this overlay sets {key} of {rule.name}")
    path_to = _path_to(yaml.compose(text, Loader=yaml.SafeLoader), rule, signal)
    if not path_to:
        where = signal.location or Location(path)
        raise CannotRewrite(
            f"{where}: {key} of {rule.name} is written by way of an alias or a merge key; "
            "write it out in the rule first"
        )
    number = path_to[-1]
    # As YAML has it: what Python calls 1e-09 is a text there.
    written = yaml.safe_dump(threshold).splitlines()[0]
    return f"{text[: number.start_mark.index]}{written}{text[number.end_mark.index :]}"


def _path_to(root: yaml.Node | None, rule: Rule, signal: Signal) -> list[yaml.Node]:
    """The nodes from the list of rules down to the number; none where others share one of them."""
    rules = _value(root, "rules")
    for entry in rules.value if isinstance(rules, yaml.SequenceNode) else ():
        name = _value(entry, "name")
        if isinstance(name, yaml.ScalarNode) and name.value == rule.name:
            signals = _value(entry, "signals")
            holder = _value(signals, signal.name)
            found = [rules, entry, signals, holder, _value(holder, signal.comparison)]
            path = [node for node in found if node is not None]
            is_own = len(path) == len(found) and not any(_is_shared(root, node) for node in path)
            return path if is_own else []
    return []


def _is_shared(root: yaml.Node | None, wanted: yaml.Node) -> bool:
    """Whether an alias leads to the node from a second place."""
    seen: set[int] = set()
    waiting, num_uses = [root] if root else [], 0
    while waiting:
        node = waiting.pop()
        num_uses += node is wanted
        if id(node) not in seen and isinstance(node, yaml.CollectionNode):
            seen.add(id(node))
            pairs = isinstance(node, yaml.MappingNode)
            waiting += [each for pair in node.value for each in pair] if pairs else node.value
    return num_uses > 1


def _value(node: yaml.Node | None, key: str) -> yaml.Node | None:
    if not isinstance(node, yaml.MappingNode):
        return None
    for name, value in node.value:
        if isinstance(name, yaml.ScalarNode) and name.value == key:
            return value  # type: ignore[no-any-return]
    return None
