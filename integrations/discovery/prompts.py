"""Requests to be answered with something done to the model."""

from __future__ import annotations

from pathlib import Path

import msgspec

from saeguard.monitor.errors import ConfigError


class Prompt(msgspec.Struct, frozen=True):
    """A request to be answered: a line of the file that `capture` reads, with what is right.

    Attributes:
        label: whether this is a request in which the harm is to be expected.
        truth: a text that an honest answer has.
        lie: a text that a dishonest one has.
    """

    id: str
    label: bool
    messages: list[dict[str, str]] | None = None
    prompt: str | None = None
    response: str | None = None
    truth: str | None = None
    lie: str | None = None
    group: str | None = None
    max_tokens: int = 64


def read_prompts(path: Path) -> list[Prompt]:
    """
    Raises:
        ConfigError: the file cannot be read, or a line is wrong.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    prompts = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            prompts.append(msgspec.json.decode(line, type=Prompt))
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}:{number}: {error}") from error
        if (prompts[-1].messages is None) == (prompts[-1].prompt is None):
            raise ConfigError(f"{path}:{number}: give either messages or prompt")
    if len({prompt.label for prompt in prompts}) < 2:
        raise ConfigError(f"{path}: it takes prompts with the label true, and some with false")
    return prompts
