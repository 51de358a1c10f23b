"""A loaded rule set: what `load_rules` returns and the engine runs. Everything here is immutable.

RuleSet
  features   name -> Feature      a row of an SAE, a probe, or an expert of a router
  rules      Rule
    scope      which requests and phases
    signals    Signal             one number per token, compared with a threshold
      aggregate  Aggregate        how the scores of features become that number
    detection  Condition          a boolean expression over the names of the signals,
               StepSequence       such expressions in order, or
               Correlation        matches of other rules, across requests
    limit      Limit              how many matches become alerts
    exceptions Exemption          who is let off, why and until when
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import ClassVar, Literal

from saeguard.rules.conditions import Condition
from saeguard.rules.errors import Location
from saeguard.rules.phases import Phase
from saeguard.rules.scope import Scope
from saeguard.rules.template import Template

Units = Literal["raw", "neuronpedia"]
RouterUnits = Literal["weight", "logit"]
Status = Literal["experimental", "test", "stable", "deprecated"]
Severity = Literal["info", "low", "medium", "high", "critical"]
Aggregation = Literal[
    "value",
    "max",
    "mean",
    "sum",
    "count",
    "ema",
    "rolling_mean_max",
    "topk_mean",
    "min_evidence",
    "noisy_or",
]
Combine = Literal["max", "sum", "l2", "angle"]
Comparison = Literal["gt", "gte", "lt", "lte", "between"]
Action = Literal["alert", "stop"]
GroupKey = Literal["tenant", "model", "lora", "client", "rule"]
CorrelationType = Literal["event_count", "value_count", "temporal", "temporal_ordered"]


@dataclass(frozen=True, slots=True)
class SaeFeature:
    """Row `index` of the sparse autoencoder stored in the directory `path`."""

    kind: ClassVar = "sae"
    path: Path
    index: int
    layer: int | None = None
    release: str | None = None
    model: str | None = None
    norm_scaling_factor: float | None = None
    """What the SAE multiplies its input by, where its own files do not say."""
    neuronpedia: str | None = None
    """The SAE as Neuronpedia names it: `model/source`."""

    @property
    def origin(self) -> str:
        """What tells it from another one of that name, wherever the folder is."""
        factor = self.norm_scaling_factor
        return self.path.name + (f" with norm_scaling_factor {factor:g}" if factor else "")


@dataclass(frozen=True, slots=True)
class ProbeFeature:
    """The probe called `name` in the safetensors file `path`."""

    kind: ClassVar = "probe"
    path: Path
    name: str

    @property
    def origin(self) -> str:
        return self.path.name


@dataclass(frozen=True, slots=True)
class RouterFeature:
    """Expert `expert` in the eyes of the router of layer `layer`: the model's own, no file's."""

    kind: ClassVar = "router"
    layer: int
    expert: int

    @property
    def origin(self) -> str:
        return f"router.{self.layer}"


@dataclass(frozen=True, slots=True)
class Feature:
    """A named score, one number per token. Two definitions at different places can be equal."""

    name: str
    label: str
    units: Units | RouterUnits
    source: SaeFeature | ProbeFeature | RouterFeature
    max_activation: float | None = None
    """The largest activation known: what `40% of max` is a part of."""
    location: Location = field(compare=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class Aggregate:
    """How the scores of one phase run become one number per token; formulas in `aggregates.py`."""

    features: tuple[str, ...]
    """Several only with `combine`, which makes one score of theirs on each token."""
    kind: Aggregation
    combine: Combine | None = None
    tokens: int = 1
    """Length of the window; for `ema` the half-life."""
    over: float = 0.0
    """For `count`: scores above this are counted."""
    rolling: int = 1
    """For `rolling_mean_max`: tokens of each mean."""
    k: int = 1
    """For `topk_mean` and `min_evidence`."""
    zero: float = 0.0
    """For `noisy_or`: the score that is probability 0."""
    one: float = 1.0
    """For `noisy_or`: the score that is probability 1."""

    @property
    def source(self) -> str:
        """What it reads, for people: `lie`, or `l2(x, y)`."""
        names = ", ".join(self.features)
        return f"{self.combine}({names})" if self.combine else names


@dataclass(frozen=True, slots=True)
class Signal:
    """A named comparison. It is false where the aggregate is NaN: nothing observed."""

    name: str
    """Within a rule; a building block's signal is `block.signal`."""
    aggregate: Aggregate
    comparison: Comparison
    threshold: float
    """For `between` the lower bound."""
    upper: float | None = None
    """For `between`; below the lower bound where an angle's range reaches across 180 degrees."""
    written: str = ""
    """The threshold as the file has it, where it is a part of a maximum: `40% of max`."""
    location: Location | None = field(default=None, compare=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class Step:
    """True on a token of one of the phases on which the condition is true."""

    when: Condition
    phases: frozenset[Phase]


@dataclass(frozen=True, slots=True)
class StepSequence:
    """Steps on ever later tokens of one request, the last at most `within` after the first."""

    steps: tuple[Step, ...]
    within: int
    unless: Step | None = None
    """Cancels what was begun on an earlier token."""


@dataclass(frozen=True, slots=True)
class Correlation:
    """Matches of other rules, across requests, within a span of time."""

    type: CorrelationType
    rules: tuple[str, ...]
    group_by: tuple[GroupKey, ...]
    timespan_s: float
    comparison: Literal["gt", "gte"] = "gte"
    threshold: int = 1
    field: GroupKey | Literal["request"] | None = None
    """For `value_count`: whose distinct values are counted."""


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `max` alerts per request, group or rule; with `every_s`, within any such span."""

    per: Literal["request", "group", "rule"] = "request"
    max: int = 1
    every_s: float | None = None


@dataclass(frozen=True, slots=True)
class Exemption:
    """An `exceptions` entry: requests in which a match of the rule raises no alert."""

    name: str
    reason: str
    tenants: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    loras: tuple[str, ...] = ()
    clients: tuple[str, ...] = ()
    expires: date | None = None
    """The last day, in UTC, on which it applies."""
    location: Location | None = field(default=None, compare=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class Change:
    """What an overlay did to a rule."""

    path: str
    """Of the key that it set, such as `signals.peak.gte`, or `exceptions` when it added some."""
    location: Location
    before: object = None
    """What the key was set to, if it was."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One detection."""

    id: str
    name: str
    title: str
    description: str
    status: Status
    severity: Severity
    scope: Scope
    signals: tuple[Signal, ...]
    """Of the rule and of the building blocks it names; none for a correlation."""
    detection: Condition | StepSequence | Correlation
    message: Template
    for_tokens: int = 1
    """Consecutive tokens on which the condition must be true; 1 fires at once."""
    keep_firing_for: int = 0
    """Tokens of a false condition that do not end a match."""
    limit: Limit = Limit()
    exceptions: tuple[Exemption, ...] = ()
    emit: bool = True
    """False: a building block, which raises no alert itself."""
    action: Action = "alert"
    mandatory: bool = False
    """True: no client can opt out of it."""
    min_coverage: float = 0.0
    """Part of a request's tokens that must have been seen for silence to mean anything."""
    tags: tuple[str, ...] = ()
    falsepositives: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    changes: tuple[Change, ...] = field(default=(), compare=False, kw_only=True)
    """By overlays, in their order."""
    places: Mapping[str, Location] = field(default_factory=dict, compare=False, kw_only=True)
    """Where its numbers are written that belong to no signal: `for`, `correlate.timespan`."""
    location: Location = field(compare=False, kw_only=True)

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the features that the signals read, each once."""
        return tuple(dict.fromkeys(f for signal in self.signals for f in signal.aggregate.features))

    @property
    def phases(self) -> frozenset[Phase]:
        """Those in which the rule looks at tokens."""
        match self.detection:
            case StepSequence(steps, _, unless):
                steps_and_unless = steps if unless is None else (*steps, unless)
                return frozenset[Phase]().union(*(step.phases for step in steps_and_unless))
            case Correlation():
                return frozenset()
        return self.scope.phases

    @property
    def allows_opt_out(self) -> bool:
        """Whether clients may ask to be left alone by it. What happens across requests is no one
        client's to turn off.
        """
        return not self.mandatory and not isinstance(self.detection, Correlation)

    @property
    def max_per_request(self) -> int | None:
        """Matches of one request after this many are marked `limited`; None: no such limit."""
        limit = self.limit
        return limit.max if limit.per == "request" and limit.every_s is None else None


@dataclass(frozen=True, slots=True)
class RuleSet:
    """The rules and features of one or several files."""

    name: str
    version: str
    sha256: str
    """Of the files' contents, one after the other; for one file what `sha256sum` prints."""
    features: Mapping[str, Feature]
    rules: tuple[Rule, ...]

    def used_features(self) -> tuple[str, ...]:
        """Names of the features that some rule reads, sorted."""
        return tuple(sorted({name for rule in self.rules for name in rule.features}))
