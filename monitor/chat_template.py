"""A model's own chat template, rendered the way the server renders it.

The environment is the one that model authors write for: Jinja's immutable sandbox with trimmed
blocks, loop controls, `tojson` that leaves HTML alone, `raise_exception` and `strftime_now`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

_TEMPLATE_FILES = ("chat_template.jinja", "tokenizer_config.json", "chat_template.json")
"""The first that has a template holds the model's."""


class _GenerationBlocks(Extension):
    """`{% generation %}` marks what is trained on; rendering ignores it."""

    tags = {"generation"}  # noqa: RUF012 (as the base class has it)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


def _to_json(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


_ENVIRONMENT = ImmutableSandboxedEnvironment(
    trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlocks, loopcontrols]
)
_ENVIRONMENT.filters["tojson"] = _to_json
_ENVIRONMENT.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now}


@dataclass(frozen=True)
class ChatTemplate:
    """The text of a template, and the special tokens that it may name (`bos_token` and others)."""

    text: str
    special_tokens: Mapping[str, str]

    def render(self, messages: Sequence[Mapping[str, Any]], is_prompt: bool = False) -> str | None:
        """The text of a conversation; None where the template refuses it.

        `is_prompt`: end with what opens the model's turn.
        """
        try:
            return self._compiled.render(
                messages=messages,
                tools=None,
                documents=None,
                add_generation_prompt=is_prompt,
                **self.special_tokens,
            )
        except Exception:  # a template is a program: it can fail in any way
            return None

    @cached_property
    def _compiled(self) -> Template:
        return _ENVIRONMENT.from_string(self.text)


def read_chat_templates(directory: Path, instead: Path | None = None) -> list[ChatTemplate]:
    """The templates of the model whose tokenizer lies in `directory`; usually one or none.

    `instead` is a file with the template that the server uses in place of the model's own. Raises
    OSError or ValueError where a template's file cannot be read.
    """
    config = _read_json(directory / "tokenizer_config.json")
    named = {
        key: value.get("content") if isinstance(value, dict) else value
        for key, value in config.items()
        if key.endswith("_token")
    }
    special = {key: value for key, value in named.items() if isinstance(value, str)}
    if instead is not None:
        return [ChatTemplate(instead.read_text(), special)]
    for name in _TEMPLATE_FILES:
        if texts := list(_texts_in(directory / name)):
            return [ChatTemplate(text, special) for text in texts]
    return []


def _texts_in(file: Path) -> Iterator[str]:
    """A file holds one template, or a list of named ones."""
    if file.suffix == ".jinja":
        if file.is_file():
            yield file.read_text()
        return
    found = _read_json(file).get("chat_template")
    for entry in found if isinstance(found, list) else [found]:
        text = entry.get("template") if isinstance(entry, dict) else entry
        if isinstance(text, str):
            yield text


def _read_json(file: Path) -> dict[str, Any]:
    """Empty where there is no such file or it holds something else."""
    try:
        data = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}
