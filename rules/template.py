"""Message templates: text with `{rule.title}`-like placeholders from a closed list.

`str.format` would follow any attribute of any object a template names. Here a placeholder is a name
from the list below, an optional `!r`, and a short format spec, all checked when the file is loaded.

    {rule.name} {rule.title} {rule.severity}
    {signal.X.value} {signal.X.threshold} {signal.X.token} {signal.X.position}
    {request.model} {request.id} {request.tenant} {request.lora}
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

Value = float | int | str

_RULE_FIELDS = ("name", "title", "severity")
_REQUEST_FIELDS = ("model", "id", "tenant", "lora")
_SIGNAL_SAMPLES: dict[str, Value] = {"value": 1.0, "threshold": 1.0, "token": "", "position": 1}

_PIECE = re.compile(r"(?P<escape>\{\{|\}\})|\{(?P<inside>[^{}]*)\}|(?P<stray>[{}])|[^{}]+")
_INSIDE = re.compile(r"(?P<name>[a-z0-9_.]+)(?P<repr>!r)?(:(?P<spec>.*))?")
# Widths of two digits at most: a template must not be able to ask for a gigabyte of spaces.
_SPEC = re.compile(r"[<>^]?[+]?0?\d{0,2}(\.\d{1,2})?[a-zA-Z%]?")


@dataclass(frozen=True, slots=True)
class Placeholder:
    """`{signal.lie.value:.2f}` is `("signal", "lie", "value")` with the spec `.2f`."""

    path: tuple[str, ...]
    spec: str
    repr: bool
    offset: int


@dataclass(frozen=True, slots=True)
class Template:
    """The text as written, and cut into literals and placeholders."""

    text: str
    pieces: tuple[str | Placeholder, ...]

    def placeholders(self) -> Iterator[Placeholder]:
        return (piece for piece in self.pieces if isinstance(piece, Placeholder))

    def render(self, value_of: Callable[[tuple[str, ...]], Value]) -> str:
        """Fill in the placeholders; `value_of` maps their paths to values."""
        return "".join(
            piece if isinstance(piece, str) else _format(piece, value_of(piece.path))
            for piece in self.pieces
        )


@dataclass(frozen=True, slots=True)
class Mistake:
    """Something wrong `offset` characters into a template."""

    message: str
    offset: int


def parse_template(text: str) -> tuple[Template, tuple[Mistake, ...]]:
    """Cut a template into pieces. With mistakes, the pieces are those that could be read."""
    found = [_piece(match) for match in _PIECE.finditer(text)]
    pieces = tuple(piece for piece in found if not isinstance(piece, Mistake))
    return Template(text, pieces), tuple(piece for piece in found if isinstance(piece, Mistake))


def _piece(match: re.Match[str]) -> str | Placeholder | Mistake:
    if match["escape"]:
        return match["escape"][0]
    if match["stray"]:
        return Mistake(
            f"unmatched {match['stray']!r}; write it twice to mean itself", match.start()
        )
    if match["inside"] is None:
        return match[0]
    return _placeholder(match["inside"], match.start())


def _placeholder(inside: str, offset: int) -> Placeholder | Mistake:
    parts = _INSIDE.fullmatch(inside)
    path = tuple(parts["name"].split(".")) if parts else ()
    if parts is None or (sample := _sample(path)) is None:
        return Mistake(f"unknown placeholder {{{inside}}}; {_allowed()}", offset)
    placeholder = Placeholder(path, parts["spec"] or "", bool(parts["repr"]), offset)
    try:
        if not _SPEC.fullmatch(placeholder.spec):
            raise ValueError
        _format(placeholder, sample)
    except ValueError:
        return Mistake(f"bad format spec {placeholder.spec!r} in {{{inside}}}", offset)
    return placeholder


def _sample(path: tuple[str, ...]) -> Value | None:
    match path:
        case ("rule", name) if name in _RULE_FIELDS:
            return ""
        case ("request", name) if name in _REQUEST_FIELDS:
            return ""
        case ("signal", _, name):
            return _SIGNAL_SAMPLES.get(name)
    return None


def _allowed() -> str:
    return (
        f"the placeholders are rule.{'|'.join(_RULE_FIELDS)}, "
        f"signal.NAME.{'|'.join(_SIGNAL_SAMPLES)}, request.{'|'.join(_REQUEST_FIELDS)}"
    )


def _format(placeholder: Placeholder, value: Value) -> str:
    if placeholder.repr:
        value = repr(value)
    default: Literal["g", ""] = "g" if isinstance(value, float) else ""
    return format(value, placeholder.spec or default)
