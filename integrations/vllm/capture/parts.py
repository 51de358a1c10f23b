"""The requests in parts, each of which one engine runs and one file records. How they are cut does
not depend on who runs them: what is recorded is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from saeguard.integrations.vllm.capture.bounds import Bounds
from saeguard.integrations.vllm.capture.data import Item

_BYTES_PER_TOKEN = 3
"""Of text, about: it is cut before there is a tokenizer. Where that is too many, a part has three
times as much as it should at most, and its engine runs it in several batches."""


@dataclass(frozen=True, slots=True)
class Part:
    """Some of the requests."""

    items: tuple[Item, ...]

    def __str__(self) -> str:
        return f"requests {self.items[0].id!r} to {self.items[-1].id!r}"


def cut(items: Sequence[Item], bounds: Bounds, max_tokens: int) -> list[Part]:
    """In their order.

    Args:
        max_tokens: of an answer, where the request says nothing else.
    """
    sized = ((item, _num_tokens(item, max_tokens)) for item in items)
    return [Part(tuple(batch)) for batch in bounds.batches(sized)]


def _num_tokens(item: Item, max_tokens: int) -> int:
    texts = (item.prompt, item.response, *(message.content for message in item.messages or ()))
    num_bytes = sum(len(text.encode()) for text in texts if text)
    return num_bytes // _BYTES_PER_TOKEN + item.num_to_generate(max_tokens)
