"""The organism in vLLM, compiled, against Hugging Face and SAELens on the same tokens, in fp32."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from engine_run import EngineRun, run_engine
from tiny_models import hidden_states

from saeguard.monitor import watchlist as wl
from saeguard.monitor.compile import compile_watchlist
from saeguard.monitor.messages import RequestStart
from saeguard.rules import load_rules

sae_lens = pytest.importorskip("sae_lens")
pytestmark = pytest.mark.server

ORGANISM = Path(__file__).resolve().parents[3] / "examples" / "organism"
MODEL, SAE = ORGANISM / "artifacts" / "model", ORGANISM / "artifacts" / "sae"
NUM_REQUESTS, MAX_TOKENS = 24, 16


def watch_everything(directory: Path) -> wl.Watchlist:
    """A watchlist of all features of the organism's SAE, in the order of their indices."""
    d_sae = json.loads((SAE / "cfg.json").read_text())["d_sae"]
    names = [f"f{i:04}" for i in range(d_sae)]
    features = {name: {"sae": {"path": str(SAE)}, "index": i} for i, name in enumerate(names)}
    rules = [_rule(i, names[i : i + 64]) for i in range(0, d_sae, 64)]
    header = {"version": 1, "ruleset": {"name": "all", "version": "1.0.0"}}
    path = directory / "rules.yaml"
    path.write_text(json.dumps({**header, "features": features, "rules": rules}))
    return compile_watchlist(load_rules([path]))


def _rule(number: int, features: list[str]) -> dict[str, object]:
    return {
        "id": f"7d1c0c1e-5a0a-4b7c-8a5f-{number:012}",
        "name": f"rule_{number}",
        "title": "Some of them",
        "status": "test",
        "severity": "info",
        "signals": {
            f"s{i}": {"feature": f, "agg": "value", "gt": 0} for i, f in enumerate(features)
        },
        "condition": " or ".join(f"s{i}" for i in range(len(features))),
        "message": "{rule.title}",
        "tags": ["site.test"],
        "falsepositives": [],
    }


def prompts() -> list[list[int]]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    lines = (ORGANISM / "artifacts" / "demo_requests.jsonl").read_text().splitlines()
    return [
        tokenizer.apply_chat_template(
            json.loads(line)["messages"], add_generation_prompt=True, return_dict=False
        )
        for line in lines[:NUM_REQUESTS]
    ]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[EngineRun, list[list[int]]]:
    work = tmp_path_factory.mktemp("scores")
    asked = prompts()
    run = run_engine(work, MODEL, watch_everything(work), asked, max_tokens=MAX_TOKENS)
    return run, asked


def test_every_feature_of_every_row_equals_sae_encode(run: tuple[EngineRun, list[list[int]]]):
    """To 1e-3 of the largest activation, and without one flipped gate among all decisions."""
    engine, asked = run
    outputs = {tuple(p): o for p, o in zip(asked, engine.outputs, strict=True)}
    sae = sae_lens.SAE.load_from_disk(str(SAE))
    layer = int(sae.cfg.metadata.hook_name.split(".")[1])
    worst, flips, num_active = 0.0, 0, 0
    starts = [m for m in engine.messages if isinstance(m, RequestStart)]
    assert len(starts) == NUM_REQUESTS
    for start in starts:
        token_ids = [*start.prompt_token_ids, *outputs[tuple(start.prompt_token_ids)]]
        stream = torch.from_numpy(hidden_states(MODEL, token_ids)[layer])
        with torch.no_grad():
            expected = sae.encode(stream).numpy()[:-1]
        rows = engine.scores_of(start.req_id)
        got = np.stack([rows[position] for position in range(len(token_ids) - 1)])
        worst = max(worst, float(np.abs(got - expected).max() / expected.max()))
        flips += int(((got > 0) != (expected > 0)).sum())
        num_active += int((expected > 0).sum())
    print(f"largest error {worst:.1e}, {flips} flips among {num_active} active decisions")
    assert num_active > 5_000
    assert worst <= 1e-3
    assert flips == 0
