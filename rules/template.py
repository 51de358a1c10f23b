"""Message templates: text with `{rule.title}`-like placeholders from a closed list.

`str.format` would follow any attribute of any object a template names. Here a placeholder is a name
from the list below, an optional `!r`, and a short format spec, all checked when the file is loaded.

    {rule.name} {rule.title} {rule.severity}
    {request.model} {request.id} {request.tenant} {request.lora} {request.client}
    {signal.X.value} {signal.X.threshold} {signal.X.token} {signal.X.position}
    {count} {timespan} {group.KEY}      of a correlation, instead of signals
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Literal

Value = float | int | str

_RULE_FIELDS = ("name", "title", "severity")
_REQUEST_FIELDS = ("model", "id", "tenant", "lora", "client")
_SIGNAL_SAMPLES: dict[str, Value] = {"value": 1.0, "threshold": 1.0, "token": "", "position": 1}
_CORRELATION_SAMPLES: dict[str, Value] = {"count": 1, "timespan": ""}

_PIECE = re.compile(r"(?P<escape>\{\{|\}\})|\{(?P<inside>[^{}]*)\}|(?P<stray>[{}])|[^{}]+")
_INSIDE = re.compile(r"(?P<name>[a-z0-9_.]+)(?P<repr>!r)?(:(?P<spec>.*))?")
# Widths of two digits at most: a template must not be able to ask for a gigabyte of spaces.
_SPEC = re.compile(r"[<>^]?[+]?0?\d{0,2}(\.\d{1,2})?[a-zA-Z%]?")


@dataclass(frozen=True, slots=True)
class Placeholder:
    """`{signal.lie.value:.2f}` is `("signal", "lie", "value")` with the spec `.2f`.

    A building block's signal is one part: `("signal", "block.lie", "value")`.
    """

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


def parse_template(
    text: str, group_by: Collection[str] | None = None
) -> tuple[Template, tuple[Mistake, ...]]:
    """Cut a template into pieces. With mistakes, the pieces are those that could be read.

    Args:
        text: the template.
        group_by: of a correlation, its keys; None: the rule reads signals.
    """
    allowed = _Allowed(group_by)
    found = [_piece(match, allowed) for match in _PIECE.finditer(text)]
    pieces = tuple(piece for piece in found if not isinstance(piece, Mistake))
    return Template(text, pieces), tuple(piece for piece in found if isinstance(piece, Mistake))


@dataclass(frozen=True, slots=True)
class _Allowed:
    """What a placeholder may name."""

    group_by: Collection[str] | None

    def sample(self, path: tuple[str, ...]) -> Value | None:
        """A value of the kind that the path stands for, or None: it stands for nothing."""
        match path:
            case ("rule", name) if name in _RULE_FIELDS:
                return ""
            case ("request", name) if name in _REQUEST_FIELDS:
                return ""
            case ("signal", _, name) if self.group_by is None:
                return _SIGNAL_SAMPLES.get(name)
            case (name,) if self.group_by is not None:
                return _CORRELATION_SAMPLES.get(name)
            case ("group", key) if key in (self.group_by or ()):
                return ""
        return None

    def __str__(self) -> str:
        names = [f"rule.{'|'.join(_RULE_FIELDS)}", f"request.{'|'.join(_REQUEST_FIELDS)}"]
        if self.group_by is None:
            names.append(f"signal.NAME.{'|'.join(_SIGNAL_SAMPLES)}")
        else:
            names += _CORRELATION_SAMPLES
        if self.group_by:
            names.append(f"group.{'|'.join(self.group_by)}")
        return ", ".join(names)


def _piece(match: re.Match[str], allowed: _Allowed) -> str | Placeholder | Mistake:
    if match["escape"]:
        return match["escape"][0]
    if match["stray"]:
        return Mistake(
            f"unmatched {match['stray']!r}; write it twice to mean itself", match.start()
        )
    if match["inside"] is None:
        return match[0]
    return _placeholder(match["inside"], match.start(), allowed)


def _placeholder(inside: str, offset: int, allowed: _Allowed) -> Placeholder | Mistake:
    parts = _INSIDE.fullmatch(inside)
    path = _path(parts["name"]) if parts else ()
    if parts is None or (sample := allowed.sample(path)) is None:
        shown = " ".join(inside.split())
        return Mistake(f"unknown placeholder {{{shown}}}; the placeholders are {allowed}", offset)
    placeholder = Placeholder(path, parts["spec"] or "", bool(parts["repr"]), offset)
    try:
        if not _SPEC.fullmatch(placeholder.spec):
            raise ValueError
        _format(placeholder, sample)
    except ValueError:
        return Mistake(f"bad format spec {placeholder.spec!r} in {{{inside}}}", offset)
    return placeholder


def _path(name: str) -> tuple[str, ...]:
    parts = tuple(name.split("."))
    if len(parts) == 4 and parts[0] == "signal":
        return ("signal", f"{parts[1]}.{parts[2]}", parts[3])
    return parts


def _format(placeholder: Placeholder, value: Value) -> str:
    if placeholder.repr:
        value = repr(value)
    default: Literal["g", ""] = "g" if isinstance(value, float) else ""
    return format(value, placeholder.spec or default)
