"""The texts and numbers of rule files, each with the one way in which it is written.

Whatever the loader refuses here, the JSON Schema refuses too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, datetime
from typing import Annotated, Any, Literal

from pydantic import Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from saeguard.rules.loading.document import describe
from saeguard.rules.tags import SITE_TAG, known_tags, tag_error

MAX_NUMBER = 1e38  # scores are float32
UNFILLED = "FILL_IN"
"""Stands in the templates of mapping files for what only their user can know."""


@dataclass(frozen=True)
class Spelled:
    """Marks a text that must match a pattern; the JSON Schema says the same pattern."""

    pattern: str
    expected: str

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return handler(schema) | {"pattern": f"^(?:{self.pattern})$"}

    def _check(self, value: object) -> object:
        if isinstance(value, str) and re.fullmatch(self.pattern, value):
            return value
        raise expected(self.expected, value)


def expected(what: str, value: object) -> PydanticCustomError:
    """The error of a value that is not what it should be."""
    context = {"expected": what, "got": describe(value)}
    return PydanticCustomError("spelling", "expected {expected}, got {got}", context)


class _Threshold:
    """A number, or a part of the feature's maximum."""

    pattern = r"[0-9]{1,3}(\.[0-9]{1,6})?% of max"

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        number = core_schema.float_schema(
            strict=True, allow_inf_nan=False, ge=-MAX_NUMBER, le=MAX_NUMBER
        )
        text = core_schema.no_info_plain_validator_function(self._check)
        return core_schema.tagged_union_schema(
            {"number": number, "text": text},
            discriminator=lambda value: "text" if "%" in str(value) else "number",
        )

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        number = {"type": "number", "minimum": -MAX_NUMBER, "maximum": MAX_NUMBER}
        return {"anyOf": [number, {"type": "string", "pattern": f"^{self.pattern}$"}]}

    def _check(self, value: object) -> object:
        if isinstance(value, str) and re.fullmatch(self.pattern, value):
            return value
        raise expected("a number or a part of the maximum, such as '40% of max'", value)


class _Day:
    """A date, which YAML reads by itself when it is not in quotes."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._check)

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"type": "string", "format": "date", "pattern": r"^\d{4}-\d{2}-\d{2}$"}

    def _check(self, value: object) -> date:
        if isinstance(value, date) and not isinstance(value, datetime):
            return value
        if isinstance(value, str) and re.fullmatch(r"\d{4}-\d{2}-\d{2}", value, re.ASCII):
            try:
                return date.fromisoformat(value)
            except ValueError:
                pass
        raise expected("a day, such as 2027-01-31", value)


class _Tag:
    """One of the lists that come with saeguard, or a site's own."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        choices = [{"enum": list(known_tags())}, {"pattern": f"^(?:{SITE_TAG})$"}]
        return handler(schema) | {"anyOf": choices}

    def _check(self, value: object) -> object:
        if isinstance(value, str) and (problem := tag_error(value)):
            raise PydanticCustomError("tag", "{problem}", {"problem": problem})
        return value


Name = Annotated[
    str, Spelled(r"[a-z][a-z0-9_]{0,63}", "a snake_case name of at most 64 characters")
]
Text = Annotated[str, Field(min_length=1)]
Reason = Annotated[str, Spelled(r"[\s\S]*\S[\s\S]*", "a text that is not blank")]
Texts = list[Text]
Number = Annotated[float, Field(ge=-MAX_NUMBER, le=MAX_NUMBER, allow_inf_nan=False)]
Index = Annotated[int, Field(ge=0, lt=2**31)]
Threshold = Annotated[float | str, _Threshold()]
Day = Annotated[date, _Day()]
RuleTag = Annotated[str, _Tag()]
Uuid = Annotated[
    str,
    Spelled(
        r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}",
        "a lower-case UUID (python3 -c 'import uuid; print(uuid.uuid4())' makes one)",
    ),
]
Tokens = Annotated[
    str, Spelled(r"[1-9][0-9]{0,3} tokens?", "1 to 9999 tokens with the unit, such as '16 tokens'")
]
# A window's scores are kept for every live request and read again for every token: hence fewer.
Window = Annotated[
    str, Spelled(r"[1-9][0-9]{0,2} tokens?", "1 to 999 tokens with the unit, such as '16 tokens'")
]
Reach = Annotated[
    str,
    Spelled(r"[1-9][0-9]{0,5} tokens?", "1 to 999999 tokens with the unit, such as '2048 tokens'"),
]
Duration = Annotated[
    str, Spelled(r"[1-9][0-9]{0,4}[smhd]", "a time in s, m, h or d with its unit, such as '10m'")
]
Percentage = Annotated[
    str, Spelled(r"100%|[0-9]{1,2}(\.[0-9]{1,6})?%", "a part from '0%' to '100%', such as '90%'")
]
# Matched against every request's names: few stars, since each may have to be tried everywhere.
Glob = Annotated[
    str,
    Spelled(
        r"(?=.{1,200}$)[^*\n]+(\*[^*\n]*){0,8}|(?=.{1,200}$)(\*[^*\n]*){1,8}",
        "a name or a glob of 1 to 200 characters with at most 8 stars",
    ),
]
MAX_TEXTS = 1000
SomeGlobs = Annotated[list[Glob], Field(min_length=1, max_length=MAX_TEXTS)]
OVERLAY_PATH = r"[a-z_]+(\.[a-z0-9_]+){0,4}"
OverlayPath = Annotated[
    str, Spelled(OVERLAY_PATH, "a path to a key of the rule, such as signals.peak.gte")
]
PhaseName = Literal["system", "prompt", "reasoning", "answer", "tool_call"]
