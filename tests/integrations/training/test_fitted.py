"""A probe's scores in training are those that a server gives, and the rule then sees."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import get_args

import activation_data
import numpy as np
import pytest
import torch

from saeguard.integrations.probes.file import write_probe_file
from saeguard.integrations.training.aggregates import CHOICES, Aggregate
from saeguard.integrations.training.candidates import Kind, Probes
from saeguard.integrations.training.lesson import Lesson
from saeguard.integrations.training.linear import fit_logistic
from saeguard.integrations.training.material import Material, gather
from saeguard.monitor.config import read_rules
from saeguard.monitor.sites import HookPoint
from saeguard.rules.calibration.backtest import backtest
from saeguard.rules.calibration.labels import Example
from saeguard.rules.phases import Phase

LATE = HookPoint.parse(activation_data.LATE)
KINDS: tuple[Kind, ...] = get_args(Kind)

RULES = """
version: 1
ruleset: {{name: lies, version: 1.0.0}}
features:
  lies: {{probe: {{path: lies.safetensors}}, name: lies, label: x}}
rules:
  - id: 00000000-0000-4000-8000-000000000001
    name: lies
    title: A lie
    status: test
    severity: high
    scope: {{phase: [answer]}}
    signals:
      score: {{feature: lies, {signal}, gt: {threshold!r}}}
    condition: score
    message: "a lie"
    falsepositives: []
"""


def several_runs(number: int) -> list[Example]:
    """With a tool call in the middle of each answer, and some tokens that were not observed."""
    found = activation_data.examples(number)
    for i, example in enumerate(found):
        example.request.phases[6] = Phase.TOOL_CALL.value
        if i % 5 == 0:
            example.request.scores[7 + i % 2] = np.nan
    return found


def material(found: list[Example]) -> Material:
    return gather(found, "lies", [LATE], [Phase.ANSWER])


def rules(directory: Path, signal: str = "agg: value", threshold: float = 0.0) -> Path:
    path = directory / "rules.yaml"
    path.write_text(RULES.format(signal=signal, threshold=threshold))
    return path


def token_scores(found: list[Example]) -> np.ndarray:
    """Of all answer tokens, one request after the other."""
    requests = [example.request for example in found]
    return np.concatenate([r.scores[r.phases == Phase.ANSWER.value, 0] for r in requests])


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_served_is_what_was_trained(tmp_path: Path, kind: Kind):
    """To 1e-5 of the scores' spread; with activations and rows of 16 bits likewise, where the
    activations that are scored are those of 16 bits.
    """
    found = several_runs(40)
    probes = Probes(material(found), kind)
    fitted = probes.fit(probes.candidates[0])
    write_probe_file(tmp_path / "lies.safetensors", LATE, {"lies": fitted.probe})
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        rounded = [replace(e, request=replace(e.request, scores=_to(dtype, e))) for e in found]
        data = material(rounded)
        trained = fitted.scores(data.at(LATE), data.tokens)
        served = token_scores(activation_data.served(rules(tmp_path), rounded, dtype))
        assert (np.isnan(trained) == np.isnan(served)).all()
        error = np.nanmax(np.abs(served - trained)) / np.nanstd(trained)
        assert error < 1e-5 if dtype == torch.float32 else error < 1e-4


def _to(dtype: torch.dtype, example: Example) -> np.ndarray:
    return torch.tensor(example.request.scores).to(dtype).float().numpy()


@pytest.mark.parametrize("aggregate", CHOICES, ids=str)
def test_the_score_of_a_request_is_where_its_rule_stops_matching(
    tmp_path: Path, aggregate: Aggregate
):
    """With several runs, and tokens that were not observed."""
    found = several_runs(30)
    data = material(found)
    probes = Probes(data, "linear")
    fitted = probes.fit(probes.candidates[0])
    write_probe_file(tmp_path / "lies.safetensors", LATE, {"lies": fitted.probe})
    scores = aggregate.of_requests(fitted.scores(data.at(LATE), data.tokens), data.tokens)
    recorded = activation_data.served(rules(tmp_path), found)
    for i in range(0, 30, 4):
        for side in (-1, 1):
            path = rules(tmp_path, aggregate.yaml, float(scores[i] + side * 1e-4))
            one = replace(recorded[i], answers=True)
            (result,) = backtest(read_rules([str(path)]), [one])
            assert result.recall.count == (side < 0)


def test_standardising_changes_nothing_but_the_penalty():
    """Scores of coordinates of very different sizes are those of the standardised ones."""
    data = material(activation_data.examples(60))
    lesson = Lesson.of(data, LATE, np.ones(60, np.bool_))
    assert np.abs(lesson.weight @ lesson.x).max() < 1e-5
    assert np.allclose(lesson.weight @ np.square(lesson.x), 1.0, atol=1e-4)
    raw = data.at(LATE).astype(np.float64)
    again = (raw - lesson.mean) / lesson.scale
    rows = np.random.default_rng(0).normal(size=(3, again.shape[1]))
    folded, shift = lesson.on_raw(rows)
    assert np.allclose(raw @ folded.T + shift, again @ rows.T, atol=1e-9)


def test_a_coordinate_that_never_varies_gets_no_weight():
    found = activation_data.examples(60)
    for example in found:
        example.request.scores[:, activation_data.WIDTH + 5] = 1e4  # of the later hook point
    data = material(found)
    (probe,) = fit_logistic(Lesson.of(data, LATE, np.ones(60, np.bool_)), [0.01])
    assert probe.tensors["weight"][5] == 0.0
    assert np.isfinite(probe.tensors["bias"]).all()


def test_long_requests_weigh_no_more_than_short_ones_and_classes_the_same():
    found = activation_data.examples(40)
    data = material([e for e in found if e.label.label or e.label.group != "g1"])
    everything = np.ones(len(data.labels), np.bool_)
    lesson = Lesson.of(data, LATE, everything)
    of_requests = np.bincount(lesson.request, lesson.weight)
    for side in (True, False):
        shares = of_requests[data.labels == side]
        assert np.allclose(shares, 0.5 / len(shares))


def test_of_a_request_with_a_span_only_that_is_learnt_from():
    found = activation_data.examples(40)
    data = material(found)
    lesson = Lesson.of(data, LATE, np.ones(40, np.bool_))
    num_taught = np.bincount(lesson.request)
    assert (num_taught[data.labels] == 3).all()
    assert (num_taught[~data.labels] > 3).all()
    whole = Lesson.of(data, LATE, np.ones(40, np.bool_), whole=True)
    assert len(whole.x) == len(data.at(LATE))


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_fit_is_the_same(kind: Kind):
    data = material(activation_data.examples(40))
    probes = [Probes(data, kind, seed=3) for _ in range(2)]
    one, other = (p.fit(p.candidates[-1]).probe.tensors for p in probes)
    assert all((one[name] == other[name]).all() for name in one)
