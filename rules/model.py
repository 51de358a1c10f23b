"""A loaded rule set: what `load_rules` returns and the engine runs. Everything here is immutable.

RuleSet
  features   name -> Feature      a row of an SAE, or a probe
  rules      Rule
    scope      which requests and phases
    signals    Signal             one number per token, compared with a threshold
      aggregate  Aggregate        how a feature's scores become that number
    condition  a boolean expression over the names of the signals
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from saeguard.rules.conditions import Condition
from saeguard.rules.errors import Location
from saeguard.rules.scope import Scope
from saeguard.rules.template import Template

Units = Literal["raw", "neuronpedia"]
Status = Literal["experimental", "test", "stable", "deprecated"]
Severity = Literal["info", "low", "medium", "high", "critical"]
Aggregation = Literal["value", "max", "mean", "count", "ema"]
Comparison = Literal["gt", "gte", "lt", "lte"]


@dataclass(frozen=True, slots=True)
class SaeFeature:
    """Row `index` of the sparse autoencoder stored in the directory `path`."""

    path: Path
    index: int
    layer: int | None = None
    release: str | None = None
    model: str | None = None


@dataclass(frozen=True, slots=True)
class ProbeFeature:
    """The linear probe called `name` in the safetensors file `path`."""

    path: Path
    name: str


@dataclass(frozen=True, slots=True)
class Feature:
    """A named score, one number per token. Two definitions at different places can be equal."""

    name: str
    label: str
    units: Units
    source: SaeFeature | ProbeFeature
    location: Location = field(compare=False)


@dataclass(frozen=True, slots=True)
class Aggregate:
    """How the scores of one phase run become one number per token; formulas in `aggregates.py`."""

    feature: str
    kind: Aggregation
    tokens: int = 1
    """Length of the window; for `ema` the half-life."""
    over: float | None = None
    """For `count`: scores above this are counted."""


@dataclass(frozen=True, slots=True)
class Signal:
    """A named comparison. It is false where the aggregate is NaN: nothing observed."""

    name: str
    aggregate: Aggregate
    comparison: Comparison
    threshold: float


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
    condition: Condition
    for_tokens: int
    """Consecutive tokens on which the condition must be true; 1 fires at once."""
    max_per_request: int
    """Matches after this many are marked `limited`."""
    message: Template
    tags: tuple[str, ...]
    falsepositives: tuple[str, ...]
    references: tuple[str, ...]
    location: Location = field(compare=False)

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the features that the signals read, each once."""
        return tuple(dict.fromkeys(signal.aggregate.feature for signal in self.signals))


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
