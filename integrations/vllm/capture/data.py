"""The requests to be run: a file of one JSON object a line.

    {"id": "r1", "messages": [{"role": "user", "content": "Hi"}], "label": false}
    {"id": "r2", "prompt": "Once upon a time", "response": "there was a fox", "label": true}

What it says besides is for `saeguard backtest`, which reads the same file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from saeguard.monitor.errors import ConfigError


class Message(msgspec.Struct, frozen=True):
    """One turn of a conversation."""

    role: str
    content: str


class Item(msgspec.Struct, frozen=True):
    """One request.

    Attributes:
        id: by which recordings, answers and labels are joined.
        messages: a conversation; of it or of `prompt` there is exactly one.
        prompt: plain text.
        response: what was answered; then nothing is generated. Without it the model answers.
        max_tokens: of the answer, where that is not the same for all.
        span_text: where this stands in the answer, its tokens are the label's `span`.
    """

    id: str
    messages: list[Message] | None = None
    prompt: str | None = None
    response: str | None = None
    max_tokens: int | None = None
    span_text: str | None = None

    def num_to_generate(self, by_default: int) -> int:
        """Tokens at most."""
        return 1 if self.response is not None else self.max_tokens or by_default


_DECODER = msgspec.json.Decoder(Item)


def read_items(path: Path) -> list[Item]:
    """The requests of a file.

    Raises:
        ConfigError: it cannot be read, a line is wrong, or an id stands twice.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    items: dict[str, Item] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            item = _DECODER.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise ConfigError(f"{where}: {error}") from error
        if (item.messages is None) == (item.prompt is None):
            raise ConfigError(f"{where}: give either messages or prompt")
        if item.messages == [] or item.prompt == "":
            raise ConfigError(f"{where}: there is nothing in it for a model to read")
        if item.id in items:
            raise ConfigError(f"{where}: the id {item.id!r} stands twice")
        items[item.id] = item
    if not items:
        raise ConfigError(f"{path}: holds no requests")
    return list(items.values())


def token_ids(item: Item, tokenizer: Any) -> list[int]:
    """What the model is to read: the conversation by its chat template, a given response included.

    Raises:
        ConfigError: there is no chat template for a conversation, or it refuses this one.
    """
    if item.prompt is not None:
        return list(tokenizer.encode(item.prompt + (item.response or "")))
    messages = [{"role": m.role, "content": m.content} for m in item.messages or ()]
    if item.response is not None:
        messages.append({"role": "assistant", "content": item.response})
    try:
        encoded = tokenizer.apply_chat_template(
            messages, add_generation_prompt=item.response is None, tokenize=True, return_dict=False
        )
    except Exception as error:  # a template is a program, which may raise anything
        raise ConfigError(f"request {item.id!r}: the chat template refuses it: {error}") from error
    return list(encoded)
