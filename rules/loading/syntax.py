"""The shape of a rule file: which keys there are, and what each may hold. Values stay as written.

What the shape alone cannot tell (names that refer to other names) is in `references.py`; `load.py`
turns a checked file into the types of `model.py`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from saeguard.rules.loading.correlate_syntax import CorrelateEntry
from saeguard.rules.loading.document import describe
from saeguard.rules.loading.signal_syntax import AnySignal, Entry, misfit
from saeguard.rules.loading.spelling import (
    Day,
    Duration,
    Index,
    Name,
    Number,
    OverlayPath,
    Percentage,
    PhaseName,
    Reach,
    Reason,
    RuleTag,
    SomeGlobs,
    Spelled,
    Text,
    Texts,
    Tokens,
    Uuid,
)
from saeguard.rules.model import Action, RouterUnits, Severity, Status, Units

DETECTIONS = ("condition", "sequence", "correlate")


def _first_version(value: object) -> object:
    if type(value) is int and value == 1:
        return value
    got = {"got": describe(value)}
    raise PydanticCustomError("version", "this saeguard reads version 1, got {got}", got)


class RulesetEntry(Entry):
    name: Text
    version: Text


_Positive = Annotated[Number, Field(gt=0)]


_NeuronpediaId = Annotated[
    str, Spelled(r"[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+", "an SAE's MODEL/SOURCE on Neuronpedia")
]


class SaeEntry(Entry):
    path: Text
    layer: Index | None = None
    release: Text | None = None
    model: Text | None = None
    norm_scaling_factor: _Positive | None = None
    neuronpedia: _NeuronpediaId | None = None


class ProbeEntry(Entry):
    path: Text


class RouterEntry(Entry):
    layer: Index


class SaeFeatureEntry(Entry):
    sae: SaeEntry
    index: Index
    label: str = ""
    units: Units = "raw"
    max: _Positive | None = None


class ProbeFeatureEntry(Entry):
    probe: ProbeEntry
    name: Text | None = None
    label: str = ""
    max: _Positive | None = None


class RouterFeatureEntry(Entry):
    router: RouterEntry
    expert: Index
    label: str = ""
    units: RouterUnits = "weight"
    max: _Positive | None = None


_FEATURE_KINDS = {"probe": "probe feature", "router": "router feature", "expert": "router feature"}


def _feature_kind(value: object) -> str:
    """By its source, or the kind that comes closest: so that its other keys are checked, too."""
    keys = value if isinstance(value, dict) else ()
    return next((kind for key, kind in _FEATURE_KINDS.items() if key in keys), "sae feature")


AnyFeature = SaeFeatureEntry | ProbeFeatureEntry | RouterFeatureEntry
FeatureEntry = Annotated[
    Annotated[SaeFeatureEntry, Tag("sae feature")]
    | Annotated[ProbeFeatureEntry, Tag("probe feature")]
    | Annotated[RouterFeatureEntry, Tag("router feature")],
    Discriminator(_feature_kind),
]

Phases = Annotated[list[PhaseName], Field(min_length=1)]


class ScopeEntry(Entry):
    phase: Phases = Field(default=["reasoning", "answer"])
    model: SomeGlobs | None = None
    lora: SomeGlobs | None = None
    tenant: SomeGlobs | None = None


class LimitEntry(Entry):
    model_config = ConfigDict(
        json_schema_extra={
            "if": {"properties": {"per": {"enum": ["group", "rule"]}}, "required": ["per"]},
            "then": {"required": ["every"]},
        }
    )

    per: Literal["request", "rule"] = "request"
    max: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    every: Duration | None = None

    @model_validator(mode="after")
    def _has_span(self) -> Self:
        if self.per != "request" and self.every is None:
            raise misfit(f"per: {self.per} needs every, the span of time it counts in")
        return self


class CorrelationLimitEntry(LimitEntry):
    per: Literal["request", "group", "rule"] = "request"  # type: ignore[assignment]


class WhoEntry(Entry):
    """The requests that an exception is for."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    tenant: SomeGlobs | None = None
    model: SomeGlobs | None = None
    lora: SomeGlobs | None = None
    client: SomeGlobs | None = None

    @model_validator(mode="after")
    def _is_not_everybody(self) -> Self:
        if not self.model_fields_set:
            raise misfit("needs at least one of tenant, model, lora and client")
        return self


class ExceptionEntry(Entry):
    name: Name
    when: WhoEntry
    reason: Reason
    expires: Day | None = None


class BaseRuleEntry(Entry):
    """What every rule has."""

    id: Uuid
    name: Name
    title: Text
    description: str = ""
    status: Status
    severity: Severity
    exceptions: list[ExceptionEntry] = Field(default=[])
    emit: bool = True
    action: Action = "alert"
    mandatory: bool = False
    message: Text = "{rule.title}"
    tags: list[RuleTag] = Field(default=[])
    falsepositives: Texts = Field(default=[])
    references: Texts = Field(default=[])


class SignalRuleEntry(BaseRuleEntry):
    """A rule that reads tokens."""

    scope: ScopeEntry = ScopeEntry()
    signals: Annotated[dict[Name, AnySignal], Field(max_length=200)] = Field(default={})
    limit: LimitEntry = LimitEntry()
    min_coverage: Percentage = "0%"


class ConditionRuleEntry(SignalRuleEntry):
    condition: Text
    for_: Annotated[Tokens, Field(alias="for")] = "1 token"
    keep_firing_for: Tokens | None = None


class StepEntry(Entry):
    when: Text
    phase: Phases | None = None


class SequenceEntry(Entry):
    steps: Annotated[list[StepEntry], Field(min_length=2, max_length=16)]
    within: Reach
    unless: StepEntry | None = None


class SequenceRuleEntry(SignalRuleEntry):
    sequence: SequenceEntry


class CorrelationRuleEntry(BaseRuleEntry):
    correlate: CorrelateEntry
    limit: CorrelationLimitEntry = CorrelationLimitEntry()


def _kind(value: object) -> str:
    """Which kind of rule it is, or what comes closest: so that its other keys are checked, too."""
    keys = value if isinstance(value, dict) else ()
    return next((f"{key} rule" for key in DETECTIONS if key in keys), "condition rule")


RuleEntry = Annotated[
    Annotated[ConditionRuleEntry, Tag("condition rule")]
    | Annotated[SequenceRuleEntry, Tag("sequence rule")]
    | Annotated[CorrelationRuleEntry, Tag("correlate rule")],
    Discriminator(_kind),
]

AnyRule = ConditionRuleEntry | SequenceRuleEntry | CorrelationRuleEntry
_RULES = (ConditionRuleEntry, SequenceRuleEntry, CorrelationRuleEntry)
RULE_KEYS = {f.alias or name for rule in _RULES for name, f in rule.model_fields.items()}
"""Keys that some kind of rule has."""


class OverlayEntry(Entry):
    model_config = ConfigDict(
        json_schema_extra={"anyOf": [{"required": ["set"]}, {"required": ["add_exceptions"]}]}
    )

    rule: Name
    set_: Annotated[dict[OverlayPath, Any], Field(min_length=1)] | None = Field(None, alias="set")
    add_exceptions: Annotated[list[ExceptionEntry], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _changes_something(self) -> Self:
        if self.set_ is None and self.add_exceptions is None:
            raise misfit("needs set or add_exceptions")
        return self


class RuleFile(Entry):
    version: Annotated[Literal[1], BeforeValidator(_first_version)]
    ruleset: RulesetEntry
    features: dict[Name, FeatureEntry] = Field(default={})
    needs: dict[Name, Text] = Field(default={})
    lists: dict[Name, SomeGlobs] = Field(default={})
    rules: list[RuleEntry] = Field(default=[])
    overlays: list[OverlayEntry] = Field(default=[])
