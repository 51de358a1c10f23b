"""The shape of `correlate`. Which keys there are depends on the type."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from saeguard.rules.loading.signal_syntax import Entry, misfit
from saeguard.rules.loading.spelling import Duration, Name
from saeguard.rules.model import CorrelationType, GroupKey

_MAX_COUNT = 10_000  # a group of a correlation remembers so many matches
_Keys = Annotated[list[GroupKey], Field(json_schema_extra={"uniqueItems": True})]


class CorrelateEntry(Entry):
    """Matches of other rules, across requests."""

    model_config = ConfigDict(
        json_schema_extra={
            "if": {"properties": {"type": {"enum": ["event_count", "value_count"]}}},
            "then": {"oneOf": [{"required": ["gt"]}, {"required": ["gte"]}]},
            "else": {
                "properties": {
                    "gt": False,
                    "gte": False,
                    "rules": {"minItems": 2},
                    "group_by": {"items": {"not": {"const": "rule"}}},
                }
            },
            "allOf": [
                {
                    "if": {"properties": {"type": {"const": "value_count"}}},
                    "then": {"required": ["field"]},
                    "else": {"properties": {"field": False}},
                }
            ],
        }
    )

    type: CorrelationType
    rules: Annotated[
        list[Name], Field(min_length=1, max_length=64, json_schema_extra={"uniqueItems": True})
    ]
    group_by: _Keys = Field(default=[])
    timespan: Duration
    gt: Annotated[int, Field(ge=0, lt=_MAX_COUNT)] | None = None
    gte: Annotated[int, Field(ge=1, le=_MAX_COUNT)] | None = None
    field: GroupKey | Literal["request"] | None = None

    @model_validator(mode="after")
    def _names_each_once(self) -> Self:
        for key in ("rules", "group_by"):
            values = getattr(self, key)
            if len(set(values)) < len(values):
                raise misfit("names one twice", key)
        return self

    @model_validator(mode="after")
    def _fits_its_type(self) -> Self:
        counts = self.type in ("event_count", "value_count")
        if counts and (self.gt is None) == (self.gte is None):
            raise misfit(f"{self.type} needs exactly one of gt and gte", among=("gt", "gte"))
        if not counts and (self.gt or self.gte) is not None:
            raise misfit(f"does not go with {self.type}", "gte" if self.gt is None else "gt")
        if not counts and len(self.rules) < 2:
            raise misfit(f"{self.type} needs at least two", "rules")
        if not counts and "rule" in self.group_by:
            raise misfit(f"rule keeps the rules of {self.type} apart from each other", "group_by")
        return self

    @model_validator(mode="after")
    def _counts_a_field(self) -> Self:
        if (self.type == "value_count") != (self.field is not None):
            needs = self.field is None
            raise misfit(
                "value_count needs field, whose values it counts"
                if needs
                else f"does not go with {self.type}",
                None if needs else "field",
            )
        if self.field in self.group_by:
            raise misfit(f"{self.field} is in group_by, so there is only ever one", "field")
        return self
