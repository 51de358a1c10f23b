"""Small parts of sentences, and sentences with lists below them."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from saeguard.rules.phases import Phase
from saeguard.rules.quantity import quantity

_PHASES = {
    Phase.SYSTEM: "the system prompt",
    Phase.PROMPT: "the prompt",
    Phase.REASONING: "the reasoning",
    Phase.ANSWER: "the answer",
    Phase.TOOL_CALL: "the tool calls",
}


@dataclass(frozen=True, slots=True)
class Item:
    """A sentence or a part of one, and what is listed below it."""

    text: str
    items: tuple[Item, ...] = ()


def join(words: Iterable[str], word: str = "and") -> str:
    """`a, b and c`."""
    *most, last = words
    return f"{', '.join(most)} {word} {last}" if most else last


def phases_in_words(phases: Iterable[Phase], word: str = "and") -> str:
    return join((_PHASES[phase] for phase in sorted(phases)), word)


def requests_in_words(
    models: Sequence[str], loras: Sequence[str], tenants: Sequence[str], clients: Sequence[str] = ()
) -> str:
    """`requests of a tenant like a or b`; nothing given means every request."""
    limits = {
        "to a model like": models,
        "with a LoRA like": loras,
        "of a tenant like": tenants,
        "from a client like": clients,
    }
    texts = [f"{text} {join(names, 'or')}" for text, names in limits.items() if names]
    return f"requests {join(texts)}" if texts else "every request"


def tokens(count: int) -> str:
    return quantity(count, "token")


def ordinal(number: int) -> str:
    is_teen = 10 <= number % 100 <= 20
    return f"{number}{'th' if is_teen else {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th')}"


def sentence(text: str) -> str:
    """With a capital and a full stop."""
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?", ":")) else ".")


def lines(item: Item, width: int, depth: int = 0) -> Iterator[str]:
    """The item and what is below it, indented."""
    indent = "  " * (depth + 1)
    bullet = "- " if depth else ""
    yield from textwrap.wrap(
        item.text,
        width,
        initial_indent=indent + bullet,
        subsequent_indent=indent + " " * len(bullet),
        break_long_words=False,
        break_on_hyphens=False,
    )
    for each in item.items:
        yield from lines(each, width, depth + 1)
