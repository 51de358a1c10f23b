"""A direction that reads several places at once is a sum of probes, one for each of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import yaml
from safetensors.numpy import save_file

from saeguard.monitor import watchlist as wl
from saeguard.monitor.compile import compile_watchlist
from saeguard.rules import Phase, RequestContext, load_rules
from saeguard.rules.recordings.offline import RecordedRequest, play

PLACES = ("blocks.1.hook_resid_post", "blocks.2.hook_mlp_out", "blocks.5.hook_resid_mid")
D_MODEL, NUM_TOKENS = 32, 200
THRESHOLD = 4.0


def test_it_fires_exactly_where_the_whole_goes_above_the_threshold(tmp_path: Path):
    rng = np.random.default_rng(4)
    weight = rng.standard_normal((len(PLACES), D_MODEL)).astype(np.float32) / 4
    for i, place in enumerate(PLACES):
        bias = np.array([0.5 if i == 0 else 0.0], np.float32)
        header = {"hook_name": place, "names": ["part"]}
        save_file(
            {"weight": weight[i : i + 1], "bias": bias}, tmp_path / f"{i}.safetensors",
            metadata={"saeguard_probe": json.dumps(header)},
        )  # fmt: skip
    names = [f"part_{i}" for i in range(len(PLACES))]
    rule = {
        "id": "00000000-0000-4000-8000-000000000001", "name": "whole", "title": "Whole",
        "status": "test", "severity": "low", "condition": "s",
        "signals": {
            "s": {"features": names, "combine": "sum", "agg": "value", "gt": THRESHOLD}
        },
        "limit": {"per": "request", "max": NUM_TOKENS},
    }  # fmt: skip
    rules = {
        "version": 1,
        "ruleset": {"name": "crossing", "version": "1"},
        "features": {
            name: {"probe": {"path": f"{i}.safetensors"}, "name": "part"}
            for i, name in enumerate(names)
        },
        "rules": [rule],
    }
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rules))
    ruleset = load_rules([tmp_path / "rules.yaml"])
    watchlist = compile_watchlist(ruleset)
    inputs = {place: rng.standard_normal((NUM_TOKENS, D_MODEL)) for place in PLACES}
    scores = np.concatenate(
        [wl.encode(inputs[str(site.hook_point)], site) for site in watchlist.sites], axis=1
    )
    request = RecordedRequest(
        RequestContext(), watchlist.columns, scores.astype(np.float32),
        np.arange(NUM_TOKENS, dtype=np.int32), np.full(NUM_TOKENS, Phase.ANSWER, np.uint8),
    )  # fmt: skip
    fired = [decision.match.position for decision in play(ruleset, [request])]
    whole = 0.5 + sum(inputs[place] @ weight[i] for i, place in enumerate(PLACES))
    is_above = whole > THRESHOLD
    begins = is_above & ~np.append(False, is_above[:-1])  # a match is where a stretch begins
    assert fired == np.flatnonzero(begins).tolist()
    assert 5 < len(fired) < NUM_TOKENS / 2
