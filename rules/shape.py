"""Checks a document against the shape of a rule file, and says what is wrong in our own words."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from saeguard.rules import syntax
from saeguard.rules.document import Document, KeyPath, describe
from saeguard.rules.errors import RuleError, did_you_mean

# Which model owns the keys below a key or a union's tag; needed for suggestions only.
_OWNERS: dict[str | int, type[BaseModel]] = {
    "ruleset": syntax.RulesetEntry,
    "sae feature": syntax.SaeFeatureEntry,
    "sae": syntax.SaeEntry,
    "probe feature": syntax.ProbeFeatureEntry,
    "probe": syntax.ProbeEntry,
    "rules": syntax.RuleEntry,
    "scope": syntax.ScopeEntry,
    "limit": syntax.LimitEntry,
    "value": syntax.ValueSignal,
    "max": syntax.MaxSignal,
    "mean": syntax.MeanSignal,
    "count": syntax.CountSignal,
    "ema": syntax.EmaSignal,
}


def parse_shape(document: Document) -> tuple[syntax.RuleFile | None, list[RuleError]]:
    """The file's entries, or None and everything that is wrong with them.

    Top-level keys that start with `x-` are dropped: they are a place for YAML anchors.
    """
    data = {key: value for key, value in document.data.items() if not key.startswith("x-")}
    try:
        return syntax.RuleFile.model_validate(data), []
    except ValidationError as error:
        details = error.errors(include_url=False)
    return None, [found for detail in details if (found := _translate(document, detail))]


def _translate(document: Document, detail: ErrorDetails) -> RuleError | None:
    path = _path_in(document, detail["loc"])
    match detail["type"]:
        case "missing":
            owner, key = _path_in(document, detail["loc"][:-1]), detail["loc"][-1]
            if (*owner, key) in document.keys:
                return None  # a key without a value, reported when the file was read
            return document.value_at(owner).error(f"missing key '{key}'")
        case "extra_forbidden":
            return document.key_at(path).error(_unknown_key(detail["loc"]))
        case "union_tag_not_found":
            return document.value_at(path).error("missing key 'agg'")
        case "union_tag_invalid":
            path = (*path, "agg")
    where = document.key_at(path) if detail["loc"][-1] == "[key]" else document.value_at(path)
    key = next((part for part in reversed(path) if isinstance(part, str)), "")
    return where.error(f"{key}: {_message(detail)}")


def _path_in(document: Document, loc: tuple[str | int, ...]) -> KeyPath:
    """Pydantic's `loc` without what is not in the file: tags of unions, missing keys, `[key]`."""
    path: KeyPath = ()
    for part in loc:
        if (*path, part) in document.values:
            path = (*path, part)
    return path


def _unknown_key(loc: tuple[str | int, ...]) -> str:
    owner = next((_OWNERS[part] for part in reversed(loc[:-1]) if part in _OWNERS), syntax.RuleFile)
    known = [field.alias or name for name, field in owner.model_fields.items()]
    return f"unknown key '{loc[-1]}'{did_you_mean(str(loc[-1]), known)}"


def _message(detail: ErrorDetails) -> str:
    value, context = detail["input"], detail.get("ctx", {})
    match detail["type"]:
        case "string_type":
            hint = "" if isinstance(value, list | dict) else "; put it in quotes"
            return f"expected text, got {describe(value)}{hint}"
        case "float_type":
            return f"expected a number, got {describe(value)}{_number_hint(value)}"
        case "int_type":
            return f"expected a whole number, got {describe(value)}"
        case "dict_type" | "model_type":
            return f"expected a mapping, got {describe(value)}"
        case "list_type":
            return f"expected a list, got {describe(value)}"
        case "too_short" | "string_too_short":
            return "must not be empty"
        case "literal_error":
            options = context["expected"]
            return f"expected {options}, got {describe(value)}{_closest(value, options)}"
        case "union_tag_invalid":
            tag, tags = context["tag"], context["expected_tags"]
            return f"expected {tags}, got {describe(tag)}{_closest(tag, tags)}"
    return detail["msg"].replace("Input should be", "must be")


def _number_hint(value: Any) -> str:
    """YAML 1.1 reads `1e3` as text: a number needs a dot, and its exponent a sign."""
    try:
        return f"; write {float(value)!r} without quotes" if isinstance(value, str) else ""
    except ValueError:
        return ""


def _closest(value: object, quoted_options: str) -> str:
    """A suggestion from pydantic's list of options: `'low', 'medium' or 'high'`."""
    return did_you_mean(str(value), quoted_options.split("'")[1::2])
