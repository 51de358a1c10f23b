"""Random rules, streams and ways to cut streams, for comparing the engine with the reference.

Scores and thresholds are multiples of 1/4, so that they meet exactly and both sides round nowhere
where a decision hangs on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from saeguard.rules import Feature, Phase, RequestContext, Rule, RuleSet, SaeFeature, Signal
from saeguard.rules.conditions import And, AtLeast, Condition, Name, Not, Or
from saeguard.rules.errors import Location
from saeguard.rules.model import Aggregate, Limit, Step, StepSequence
from saeguard.rules.scope import Scope
from saeguard.rules.template import parse_template

FEATURES = ("f0", "f1", "f2", "f3")
NOWHERE = Location(Path("generated.yaml"))

windows = st.integers(1, 12) | st.sampled_from([1, 16, 33, 40])
quarters = st.integers(-4, 12).map(lambda n: n / 4)
few_phases = st.frozensets(st.sampled_from(list(Phase)), min_size=1)


@st.composite
def aggregates(draw: st.DrawFn) -> Aggregate:
    combine = draw(st.sampled_from([None, None, "max", "sum", "l2"]))
    names = st.lists(st.sampled_from(FEATURES), min_size=2, max_size=3, unique=True)
    features = tuple(draw(names)) if combine else (draw(st.sampled_from(FEATURES)),)
    kind = draw(
        st.sampled_from(
            [
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
        )
    )
    if kind == "value":
        if draw(st.booleans()):
            return Aggregate(("f0", "f1"), "value", "angle")
        return Aggregate(features, kind, combine)
    keys: dict = {"tokens": draw(windows)}
    match kind:
        case "count":
            keys["over"] = draw(st.sampled_from([0.0, 0.5, 1.0, 0.3]))
        case "rolling_mean_max":
            keys["rolling"] = draw(st.integers(1, 6))
        case "topk_mean" | "min_evidence":
            keys["k"] = draw(st.integers(1, 4))
        case "noisy_or":
            keys["zero"] = draw(st.sampled_from([0.0, 0.5, -0.5]))
            keys["one"] = keys["zero"] + draw(st.sampled_from([1.0, 2.0, 4.0]))
    return Aggregate(features, kind, combine, **keys)


def _thresholds(aggregate: Aggregate) -> st.SearchStrategy[float]:
    if aggregate.combine == "angle":
        return st.integers(-4, 4).map(lambda n: 45.0 * n)
    if aggregate.kind == "noisy_or":
        return st.sampled_from([0.0, 0.25, 0.5, 0.75, 0.875])
    if aggregate.kind == "count":
        return st.integers(0, 5).map(float)
    return quarters


@st.composite
def signals(draw: st.DrawFn, name: str) -> Signal:
    aggregate = draw(aggregates())
    thresholds = _thresholds(aggregate)
    comparison = draw(st.sampled_from(["gte", "gt", "gte", "gt", "lt", "lte", "between"]))
    if comparison != "between":
        return Signal(name, aggregate, comparison, draw(thresholds))
    low, high = draw(thresholds), draw(thresholds)
    if low > high and aggregate.combine != "angle":
        low, high = high, low
    return Signal(name, aggregate, comparison, low, high)


def conditions(names: tuple[str, ...]) -> st.SearchStrategy[Condition]:
    def joined(parts: st.SearchStrategy[Condition]) -> st.SearchStrategy[Condition]:
        several = st.lists(parts, min_size=2, max_size=4).map(tuple)
        return st.one_of(
            several.map(And),
            several.map(Or),
            several.map(lambda operands: AtLeast(2, operands)),
            parts.map(Not),
        )

    return st.recursive(st.sampled_from(names).map(Name), joined, max_leaves=5)


@st.composite
def sequences(draw: st.DrawFn, names: tuple[str, ...]) -> StepSequence:
    step = st.builds(Step, when=conditions(names), phases=few_phases)
    return StepSequence(
        steps=tuple(draw(st.lists(step, min_size=2, max_size=4))),
        within=draw(st.sampled_from([1, 3, 10, 100])),
        unless=draw(st.none() | step),
    )


@st.composite
def rules(draw: st.DrawFn, number: int) -> Rule:
    names = tuple(f"s{i}" for i in range(draw(st.integers(1, 4))))
    is_sequence = draw(st.sampled_from([False, False, True]))
    return Rule(
        id=f"00000000-0000-0000-0000-{number:012d}",
        name=f"rule_{number}",
        title="Random",
        description="",
        status="test",
        severity="low",
        scope=Scope(draw(few_phases), tenants=draw(st.sampled_from([(), (), ("a",)]))),
        signals=tuple(draw(signals(name)) for name in names),
        detection=draw(sequences(names) if is_sequence else conditions(names)),
        message=parse_template("{rule.title}")[0],
        for_tokens=1 if is_sequence else draw(st.sampled_from([1, 1, 2, 3])),
        keep_firing_for=0 if is_sequence else draw(st.sampled_from([0, 0, 1, 5])),
        limit=Limit(max=draw(st.integers(1, 3))),
        location=NOWHERE,
    )


def rule_set(*rules: Rule) -> RuleSet:
    """A set of these rules, over the features that they read."""
    names = {name for rule in rules for name in rule.features}
    source = SaeFeature(Path("sae"), 0)
    features = {name: Feature(name, name, "raw", source, location=NOWHERE) for name in names}
    return RuleSet("generated", "1", "0" * 64, features, rules)


@st.composite
def rule_sets(draw: st.DrawFn) -> RuleSet:
    return rule_set(*(draw(rules(number)) for number in range(draw(st.integers(1, 4)))))


@dataclass(frozen=True)
class Request:
    """A whole request, and where its stream is cut."""

    context: RequestContext
    scores: np.ndarray
    positions: np.ndarray
    phases: np.ndarray
    ends: list[int]
    """Of its pieces."""

    def __repr__(self) -> str:
        return f"Request({len(self.phases)} tokens in {len(self.ends)} pieces)"


@st.composite
def requests(draw: st.DrawFn) -> Request:
    length = draw(st.integers(1, 120))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return Request(
        context=RequestContext(tenant=draw(st.sampled_from(["a", "b"]))),
        scores=random_scores(
            rng,
            length,
            share_nonzero=draw(st.sampled_from([1.0, 0.3, 0.05])),
            share_holes=draw(st.sampled_from([0.0, 0.0, 0.02, 0.4])),
        ),
        positions=np.cumsum(rng.integers(1, 3, size=length)),
        phases=random_phases(rng, length, draw(st.sampled_from([0.0, 0.02, 0.1, 0.3]))),
        ends=random_cuts(rng, length, draw(st.sampled_from([1, 1, 4, 70, 200]))),
    )


def random_scores(
    rng: np.random.Generator, num_tokens: int, share_nonzero: float, share_holes: float
) -> np.ndarray:
    """Dense like those of probes or sparse like those of an SAE; single scores and whole tokens
    are missing."""
    shape = num_tokens, len(FEATURES)
    if share_nonzero == 1.0:
        scores = np.round(rng.normal(size=shape) * 4) / 4
    else:
        scores = np.round(rng.exponential(1.5, size=shape) * 4) / 4
        scores[rng.random(shape) >= share_nonzero] = 0
    scores[rng.random(shape) < share_holes] = np.nan
    scores[rng.random(num_tokens) < share_holes] = np.nan
    return scores.astype(np.float32)


def random_phases(rng: np.random.Generator, num_tokens: int, share_changes: float) -> np.ndarray:
    changes = rng.random(num_tokens) < share_changes
    codes = rng.integers(0, len(Phase), size=num_tokens)
    last_change = np.maximum.accumulate(np.where(changes, np.arange(num_tokens), 0))
    return codes[last_change].astype(np.uint8)


def random_cuts(rng: np.random.Generator, num_tokens: int, longest: int) -> list[int]:
    """Ends of pieces, the last one being the end of the stream."""
    ends = np.cumsum(rng.integers(1, longest + 1, size=num_tokens))
    return [*ends[ends < num_tokens].tolist(), num_tokens]


def simple_rule(*signals: Signal, **keys: object) -> Rule:
    """It matches on tokens of the answer on which all of these signals hold."""
    names = tuple(Name(signal.name) for signal in signals)
    return Rule(
        **{
            "id": "00000000-0000-0000-0000-000000000000",
            "name": "simple",
            "title": "Simple",
            "description": "",
            "status": "test",
            "severity": "low",
            "scope": Scope(frozenset({Phase.ANSWER})),
            "signals": signals,
            "detection": And(names) if len(names) > 1 else names[0],
            "message": parse_template("{rule.title}")[0],
            "location": NOWHERE,
        }
        | keys
    )
