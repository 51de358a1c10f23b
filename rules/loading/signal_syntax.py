"""The shape of a signal: one class for each aggregator, with the parameters that it takes."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from saeguard.rules.loading.spelling import Name, Number, Threshold, Tokens, Window
from saeguard.rules.loading.units import parse_tokens
from saeguard.rules.model import Comparison

COMPARISONS: tuple[Comparison, ...] = get_args(Comparison)
_K = Annotated[int, Field(ge=1, le=999)]


class Entry(BaseModel):
    """A mapping of a rule file."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def misfit(
    message: str, key: str | None = None, among: tuple[str, ...] = ()
) -> PydanticCustomError:
    """Keys that do not fit each other.

    Args:
        message: what is wrong.
        key: whose value is to blame; by default the whole mapping is.
        among: keys that exclude each other; the last one in the file is to blame.
    """
    context = {"message": message, "key": key, "among": among}
    return PydanticCustomError("misfit", "{message}", context)


def _one_of(*keys: str) -> dict[str, Any]:
    return {"oneOf": [{"required": [key]} for key in keys]}


_ANGLE: dict[str, Any] = {
    "if": {"properties": {"combine": {"const": "angle"}}, "required": ["combine"]},
    "then": {"properties": {"features": {"maxItems": 2}}},
}
_SOURCE: dict[str, Any] = {
    "oneOf": [
        {"required": ["feature"], "properties": {"features": False, "combine": False}},
        {"required": ["features", "combine"], "properties": {"feature": False}},
    ]
}


class SignalEntry(Entry):
    """What every signal has: a feature or a group of them, and one comparison."""

    model_config = ConfigDict(json_schema_extra={"allOf": [_one_of(*COMPARISONS), _SOURCE, _ANGLE]})

    feature: Name | None = None
    features: (
        Annotated[
            list[Name],
            Field(min_length=2, max_length=64, json_schema_extra={"uniqueItems": True}),
        ]
        | None
    ) = None
    combine: Literal["max", "sum", "l2"] | None = None
    gt: Threshold | None = None
    gte: Threshold | None = None
    lt: Threshold | None = None
    lte: Threshold | None = None
    between: Annotated[list[Threshold], Field(min_length=2, max_length=2)] | None = None

    @model_validator(mode="after")
    def _one_comparison(self) -> Self:
        if len(self.model_fields_set.intersection(COMPARISONS)) != 1:
            raise misfit(f"needs exactly one of {', '.join(COMPARISONS)}", among=COMPARISONS)
        return self

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.feature is None) == (self.features is None):
            keys = ("feature", "features")
            raise misfit("needs exactly one of feature and features", among=keys)
        if self.features is None and self.combine is not None:
            raise misfit("goes with features, not with feature", "combine")
        if self.features is not None and self.combine is None:
            raise misfit("several features need combine: max, sum, l2 or angle", "features")
        if self.features is not None and len(set(self.features)) < len(self.features):
            raise misfit("names a feature twice", "features")
        return self


class ValueSignal(SignalEntry):
    agg: Literal["value"]
    combine: Literal["max", "sum", "l2", "angle"] | None = None  # type: ignore[assignment]

    @model_validator(mode="after")
    def _angle_of_two(self) -> Self:
        if self.combine == "angle" and len(self.features or ()) != 2:
            raise misfit("an angle is of exactly two features", "features")
        return self


class MaxSignal(SignalEntry):
    agg: Literal["max"]
    window: Window


class MeanSignal(SignalEntry):
    agg: Literal["mean"]
    window: Window


class SumSignal(SignalEntry):
    agg: Literal["sum"]
    window: Window


class _NumberSignal(SignalEntry):
    """Its value is not a score, so no part of a maximum is a threshold."""

    gt: Number | None = None
    gte: Number | None = None
    lt: Number | None = None
    lte: Number | None = None
    between: Annotated[list[Number], Field(min_length=2, max_length=2)] | None = None  # type: ignore[assignment]


class CountSignal(_NumberSignal):
    agg: Literal["count"]
    over: Threshold
    window: Window


class EmaSignal(SignalEntry):
    agg: Literal["ema"]
    half_life: Tokens


class RollingMeanMaxSignal(SignalEntry):
    agg: Literal["rolling_mean_max"]
    rolling: Window
    window: Window


class _LargestSignal(SignalEntry):
    k: _K
    window: Window

    @model_validator(mode="after")
    def _k_fits(self) -> Self:
        if self.k > parse_tokens(self.window):
            raise misfit(f"a window of {self.window} never holds {self.k} scores", "k")
        return self


class TopkMeanSignal(_LargestSignal):
    agg: Literal["topk_mean"]


class MinEvidenceSignal(_LargestSignal):
    agg: Literal["min_evidence"]


class NoisyOrSignal(_NumberSignal):
    agg: Literal["noisy_or"]
    zero: Threshold = 0.0
    one: Threshold
    window: Window


SIGNALS = (
    ValueSignal,
    MaxSignal,
    MeanSignal,
    SumSignal,
    CountSignal,
    EmaSignal,
    RollingMeanMaxSignal,
    TopkMeanSignal,
    MinEvidenceSignal,
    NoisyOrSignal,
)
AnySignal = Annotated[
    ValueSignal
    | MaxSignal
    | MeanSignal
    | SumSignal
    | CountSignal
    | EmaSignal
    | RollingMeanMaxSignal
    | TopkMeanSignal
    | MinEvidenceSignal
    | NoisyOrSignal,
    Field(discriminator="agg"),
]
