"""Speculation on a real engine: rules see the tokens that the model kept, each once, and nothing
of those that it rejected.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from engine_run import EngineRun, run_engine
from safetensors.torch import load_file, save_file
from tiny_models import make_model, make_watchlist

from saeguard.monitor.detector import GRACE_S, Detector
from saeguard.monitor.messages import Floats, RequestEnd, RequestStart
from saeguard.monitor.requests import LiveRequest
from saeguard.monitor.tokens import TokenTexts
from saeguard.rules import Engine, load_rules

pytestmark = pytest.mark.server

PROMPTS = [[5, 6, 7, 8] * 6, [50, 51, 52, 53, 54] * 3, [5, 9, 9, 8]]
MAX_TOKENS = 40
WATCHLIST = make_watchlist([0, 2])
RULES = """
version: 1
ruleset: {name: drafts, version: 1.0.0}
features:
  l2_f4: {probe: {path: probe.safetensors}, name: l2_f4}
rules:
  - id: 7d1c0c1e-5a0a-4b7c-8a5f-1c1f6f0c9b11
    name: high
    title: High
    status: test
    severity: low
    signals: {now: {feature: l2_f4, agg: value, gt: 0.5}}
    condition: now
    limit: {per: request, max: 1000}
    message: high
    tags: [harm.deception]
    falsepositives: []
"""


@dataclass(frozen=True)
class Seen:
    """What the monitor makes of one request."""

    request: LiveRequest
    scores: Floats  # [tokens, features]
    matched: list[int]
    """Positions at which the rule matched."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model") / "plain")


@pytest.fixture(scope="module")
def run(model: Path, tmp_path_factory: pytest.TempPathFactory) -> EngineRun:
    """One process with an engine for each drafter, and one without any."""
    work = tmp_path_factory.mktemp("speculation")
    for name in ("ngram", "draft_model"):
        model.with_name(name).symlink_to(model)
    drafter = make_drafter(work / "drafter")
    drafting = {"method": "draft_model", "num_speculative_tokens": 3, "model": str(drafter)}
    ngram = {"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_max": 3}
    return run_engine(
        work / "run", model, WATCHLIST, PROMPTS, max_tokens=MAX_TOKENS,
        more_jobs=[  # n-grams last: with Numba in the process vLLM cannot start another worker
            (model.with_name("draft_model"), {"speculative_config": drafting}),
            (model.with_name("ngram"), {"speculative_config": ngram}),
        ],
        engine={"enforce_eager": True},
    )  # fmt: skip


def make_drafter(directory: Path) -> Path:
    """Nearly the same model, so that some of its drafts are kept and some rejected."""
    make_model(directory)
    tensors = load_file(directory / "model.safetensors")
    noise = torch.Generator().manual_seed(3)
    for tensor in tensors.values():
        if tensor.ndim == 2:
            tensor += 0.02 * torch.randn(tensor.shape, generator=noise)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def seen_by_monitor(run: EngineRun, model: Path, work: Path) -> list[Seen]:
    """What a monitor makes of the requests to one model."""
    (work / "rules.yaml").write_text(RULES)
    engine = Engine(load_rules([work / "rules.yaml"]), WATCHLIST.columns)
    detector = Detector(engine, WATCHLIST.digest, len(WATCHLIST.columns), record_tokens=128)
    starts = [m for m in run.messages if isinstance(m, RequestStart) and m.model == str(model)]
    mine = {start.req_id for start in starts}
    found = []
    for start in starts:
        found += detector.start(start, TokenTexts(None, captured=False))
    for frame, arrays in run.frames:
        if mine.issuperset(frame.req_ids):
            found += detector.observe(frame, arrays, now_s=0.0)
    for end in run.messages:
        if isinstance(end, RequestEnd) and end.req_id in mine:
            found += detector.end(end, now_s=0.0)
    seen = {}
    for request in detector.finished(GRACE_S + 1):
        req_id = request.start.req_id
        matched = [d.match.position for d in found if d.match.key == req_id]
        seen[req_id] = Seen(request, request.table.get(request.slot)[0].scores, matched)
    return [seen[start.req_id] for start in starts]


@pytest.fixture(params=["ngram", "draft_model"])
def served(model: Path, request: pytest.FixtureRequest) -> Path:
    """The model with that drafter."""
    return model.with_name(request.param)


def test_rules_see_what_the_model_kept_and_nothing_that_it_rejected(
    run: EngineRun, model: Path, served: Path, tmp_path: Path
):
    plain, speculated = (seen_by_monitor(run, each, tmp_path) for each in (model, served))
    outputs = [run.by_model[str(each)]["outputs"] for each in (model, served)]
    assert outputs[0] == outputs[1]
    for expected, got in zip(plain, speculated, strict=True):
        scale = np.nanmax(np.abs(expected.scores))
        np.testing.assert_allclose(got.scores, expected.scores, rtol=0, atol=1e-4 * scale)
        assert got.matched == expected.matched
    assert any(each.matched for each in plain)


def test_the_ledger_closes_without_the_rejected_drafts(
    run: EngineRun, served: Path, tmp_path: Path
):
    speculated = seen_by_monitor(run, served, tmp_path)
    for prompt, seen in zip(PROMPTS, speculated, strict=True):
        coverage = seen.request.coverage()
        assert coverage.scheduled == coverage.observed == len(prompt) + MAX_TOKENS - 1
        assert coverage.unseen == {}
    mine = {seen.request.start.req_id for seen in speculated}
    frames = [frame for frame, _ in run.frames if mine.issuperset(frame.req_ids)]
    num_rejected = sum(seen.request.num_rejected for seen in speculated)
    assert 0 < num_rejected < sum(sum(frame.num_drafts) for frame in frames), "and some are kept"
