"""Checks a document against the shape of a rule file, and says what is wrong in our own words."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from saeguard.rules.errors import RuleError, did_you_mean
from saeguard.rules.loading import syntax
from saeguard.rules.loading.correlate_syntax import CorrelateEntry
from saeguard.rules.loading.document import Document, KeyPath, describe
from saeguard.rules.loading.signal_syntax import SIGNALS
from saeguard.rules.loading.spelling import UNFILLED

_ONE_DETECTION = f"a rule needs exactly one of {', '.join(syntax.DETECTIONS)}"

Owners = Mapping[str | int, type[BaseModel]]
_Model = TypeVar("_Model", bound=BaseModel)

_OWNERS: Owners = {
    "ruleset": syntax.RulesetEntry,
    "sae feature": syntax.SaeFeatureEntry,
    "sae": syntax.SaeEntry,
    "probe feature": syntax.ProbeFeatureEntry,
    "probe": syntax.ProbeEntry,
    "router feature": syntax.RouterFeatureEntry,
    "router": syntax.RouterEntry,
    "condition rule": syntax.ConditionRuleEntry,
    "sequence rule": syntax.SequenceRuleEntry,
    "sequence": syntax.SequenceEntry,
    "correlate rule": syntax.CorrelationRuleEntry,
    "correlate": CorrelateEntry,
    "scope": syntax.ScopeEntry,
    "limit": syntax.LimitEntry,
    "exceptions": syntax.ExceptionEntry,
    "add_exceptions": syntax.ExceptionEntry,
    "when": syntax.WhoEntry,
    "steps": syntax.StepEntry,
    "unless": syntax.StepEntry,
    "overlays": syntax.OverlayEntry,
    **{get_args(signal.model_fields["agg"].annotation)[0]: signal for signal in SIGNALS},
}


def parse_shape(document: Document) -> tuple[syntax.RuleFile | None, list[RuleError]]:
    """The file's entries, or None and everything that is wrong with them.

    Top-level keys that start with `x-` are dropped: they are a place for YAML anchors.
    """
    return check_shape(document, syntax.RuleFile, _OWNERS)


def check_shape(
    document: Document, model: type[_Model], owners: Owners
) -> tuple[_Model | None, list[RuleError]]:
    """The same for another kind of file.

    Args:
        document: the file.
        model: its shape.
        owners: which model owns the keys below a key or a union's tag; for suggestions.
    """
    data = {key: value for key, value in document.data.items() if not key.startswith("x-")}
    try:
        return model.model_validate(data), []
    except ValidationError as error:
        details = error.errors(include_url=False)
    shape = _Shape(document, model, owners)
    return None, [found for detail in details if (found := shape.translate(detail))]


@dataclass(frozen=True, slots=True)
class _Shape:
    """Turns pydantic's findings about a document into ours."""

    document: Document
    model: type[BaseModel]
    owners: Owners

    def translate(self, detail: ErrorDetails) -> RuleError | None:
        document, loc = self.document, detail["loc"]
        path = self._path(loc)
        match detail["type"]:
            case "missing":
                owner = self._path(loc[:-1])
                if (*owner, loc[-1]) in document.keys:
                    return None  # a key without a value, reported when the file was read
                missing = _ONE_DETECTION if loc[-1] == "condition" else f"missing key '{loc[-1]}'"
                return document.value_at(owner).error(missing)
            case "extra_forbidden":
                return document.key_at(path).error(self._unknown_key(loc))
            case "union_tag_not_found":
                return document.value_at(path).error("missing key 'agg'")
            case "union_tag_invalid":
                path = (*path, "agg")
            case "misfit":
                return self._misfit(path, detail["ctx"])
        where = document.key_at(path) if loc[-1] == "[key]" else document.value_at(path)
        key = next((part for part in reversed(path) if isinstance(part, str)), "")
        return where.error(f"{key}: {_message(detail)}")

    def _path(self, loc: tuple[str | int, ...]) -> KeyPath:
        """Pydantic's `loc` without what is not in the file: tags, missing keys, `[key]`."""
        path: KeyPath = ()
        for part in loc:
            if self.document.has((*path, part)):
                path = (*path, part)
        return path

    def _misfit(self, path: KeyPath, context: dict[str, Any]) -> RuleError | None:
        """At one key's value, at the last of keys that exclude each other, or at the mapping."""
        message = context["message"]
        data = self.document.lookup(path)
        if any(key not in data and (*path, key) in self.document.keys for key in context["among"]):
            return None  # one could not be read, which is reported
        if key := context["key"]:
            return self.document.value_at((*path, key)).error(f"{key}: {message}")
        written = [key for key in data if key in context["among"]]
        where = self.document.key_at((*path, written[-1]) if len(written) > 1 else path)
        key = next((part for part in reversed(path) if isinstance(part, str)), "rule")
        label = f"signal '{key}'" if path[-2:-1] == ("signals",) else key
        return where.error(f"{label}: {message}")

    def _unknown_key(self, loc: tuple[str | int, ...]) -> str:
        key = str(loc[-1])
        owner = next((self.owners[x] for x in reversed(loc[:-1]) if x in self.owners), self.model)
        if issubclass(owner, syntax.BaseRuleEntry) and key in syntax.RULE_KEYS:
            if key in syntax.DETECTIONS:
                return _ONE_DETECTION
            return f"'{key}' does not go with a {loc[-2]}"
        known = [field.alias or name for name, field in owner.model_fields.items()]
        return f"unknown key '{key}'{did_you_mean(key, known)}"


def _message(detail: ErrorDetails) -> str:
    value, context = detail["input"], detail.get("ctx", {})
    if value == UNFILLED:
        return "still to be filled in; the comments at the top of the file say how"
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
            return f"expected a list, got {describe(value)}{_list_hint(value)}"
        case "too_short" | "string_too_short" if context["min_length"] == 1:
            return "must not be empty"
        case "too_short":
            return f"must have at least {context['min_length']} items, not {len(value)}"
        case "too_long":
            return f"must have at most {context['max_length']} items, not {len(value)}"
        case "less_than_equal":
            return f"must be at most {context['le']:g}"
        case "bool_type":
            return f"expected true or false, got {describe(value)}"
        case "literal_error":
            options = context["expected"]
            angle = "; an angle needs agg: value" if value == "angle" else ""
            return f"expected {options}, got {describe(value)}{_closest(value, options)}{angle}"
        case "union_tag_invalid":
            tag, tags = context["tag"], context["expected_tags"]
            return f"expected {tags}, got {describe(tag)}{_closest(tag, tags)}"
    return re.sub("^[A-Z][a-z]+ should", "must", detail["msg"])


def _number_hint(value: Any) -> str:
    """YAML 1.1 reads `1e3` as text: a number needs a dot, and its exponent a sign."""
    if not isinstance(value, str):
        return ""
    if re.fullmatch(r"[-+]?\d+,\d+", value):
        return f"; write {value.replace(',', '.')} with a decimal point"
    try:
        number = float(value)
    except ValueError:
        return ""
    return f"; write {number!r} without quotes" if math.isfinite(number) else ""


def _list_hint(value: Any) -> str:
    is_one = isinstance(value, str) and re.fullmatch(r"[\w$][\w./-]*", value)
    return f"; write [{value}]" if is_one else ""


def _closest(value: object, quoted_options: str) -> str:
    """A suggestion from pydantic's list of options: `'low', 'medium' or 'high'`."""
    return did_you_mean(str(value), quoted_options.split("'")[1::2])
