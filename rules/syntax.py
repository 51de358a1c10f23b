"""The shape of a rule file: which keys there are, and what each may hold. Values stay as written.

What the shape alone cannot tell (names that refer to other names) is in `references.py`; `load.py`
turns a checked file into the types of `model.py`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    Tag,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from saeguard.rules.document import describe
from saeguard.rules.model import Severity, Status, Units

COMPARISONS = ("gt", "gte", "lt", "lte")


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
        return {"type": "string", "pattern": f"^(?:{self.pattern})$"}

    def _check(self, value: object) -> object:
        if isinstance(value, str) and re.fullmatch(self.pattern, value):
            return value
        got = {"expected": self.expected, "got": describe(value)}
        raise PydanticCustomError("spelling", "expected {expected}, got {got}", got)


def _first_version(value: object) -> object:
    if type(value) is int and value == 1:
        return value
    got = {"got": describe(value)}
    raise PydanticCustomError("version", "this saeguard reads version 1, got {got}", got)


Name = Annotated[
    str, Spelled(r"[a-z][a-z0-9_]{0,63}", "a snake_case name of at most 64 characters")
]
Text = Annotated[str, Field(min_length=1)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Index = Annotated[int, Field(ge=0)]
Tokens = Annotated[
    str, Spelled(r"[1-9][0-9]{0,3} tokens?", "1 to 9999 tokens with the unit, such as '16 tokens'")
]
# A window's scores are kept for every live request and read again for every token: hence fewer.
Window = Annotated[
    str, Spelled(r"[1-9][0-9]{0,2} tokens?", "1 to 999 tokens with the unit, such as '16 tokens'")
]
Uuid = Annotated[
    str,
    Spelled(
        r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}",
        "a lower-case UUID (`python -m uuid` makes one)",
    ),
]
Texts = list[Text]
PhaseName = Literal["system", "prompt", "reasoning", "answer", "tool_call"]


class Entry(BaseModel):
    """A mapping of a rule file."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class RulesetEntry(Entry):
    name: Text
    version: Text


class SaeEntry(Entry):
    path: Text
    layer: Index | None = None
    release: Text | None = None
    model: Text | None = None


class ProbeEntry(Entry):
    path: Text


class SaeFeatureEntry(Entry):
    sae: SaeEntry
    index: Index
    label: str = ""
    units: Units = "raw"


class ProbeFeatureEntry(Entry):
    probe: ProbeEntry
    name: Text | None = None
    label: str = ""


def _feature_kind(value: object) -> str:
    has_probe = (
        "probe" in value if isinstance(value, dict) else isinstance(value, ProbeFeatureEntry)
    )
    return "probe feature" if has_probe else "sae feature"


FeatureEntry = Annotated[
    Annotated[SaeFeatureEntry, Tag("sae feature")]
    | Annotated[ProbeFeatureEntry, Tag("probe feature")],
    Discriminator(_feature_kind),
]


class SignalEntry(Entry):
    """What every signal has: a feature, and one of four comparisons."""

    model_config = ConfigDict(
        json_schema_extra={"oneOf": [{"required": [name]} for name in COMPARISONS]}
    )

    feature: Name
    gt: Number | None = None
    gte: Number | None = None
    lt: Number | None = None
    lte: Number | None = None


class ValueSignal(SignalEntry):
    agg: Literal["value"]


class MaxSignal(SignalEntry):
    agg: Literal["max"]
    window: Window


class MeanSignal(SignalEntry):
    agg: Literal["mean"]
    window: Window


class CountSignal(SignalEntry):
    agg: Literal["count"]
    over: Number
    window: Window


class EmaSignal(SignalEntry):
    agg: Literal["ema"]
    half_life: Tokens


AnySignal = Annotated[
    ValueSignal | MaxSignal | MeanSignal | CountSignal | EmaSignal, Field(discriminator="agg")
]


class ScopeEntry(Entry):
    phase: Annotated[list[PhaseName], Field(min_length=1)] = ["reasoning", "answer"]
    model: Annotated[Texts, Field(min_length=1)] | None = None
    lora: Annotated[Texts, Field(min_length=1)] | None = None
    tenant: Annotated[Texts, Field(min_length=1)] | None = None


class LimitEntry(Entry):
    per: Literal["request"] = "request"
    max: Annotated[int, Field(ge=1)] = 1


class RuleEntry(Entry):
    id: Uuid
    name: Name
    title: Text
    description: str = ""
    status: Status
    severity: Severity
    scope: ScopeEntry = ScopeEntry()
    signals: Annotated[dict[Name, AnySignal], Field(min_length=1)]
    condition: Text
    for_: Annotated[Tokens, Field(alias="for")] = "1 token"
    limit: LimitEntry = LimitEntry()
    message: Text = "{rule.title}"
    tags: Texts = []
    falsepositives: Texts = []
    references: Texts = []


class RuleFile(Entry):
    version: Annotated[Literal[1], BeforeValidator(_first_version)]
    ruleset: RulesetEntry
    features: dict[Name, FeatureEntry] = {}
    rules: list[RuleEntry] = []
