"""Probes with heads on the organism in a real engine: their live scores are those that torch makes
of Hugging Face's activations, with prompts in chunks, preemptions and a prefix cache in between.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml
from live_engine import Answer, Ask, LiveEngine
from probe_files import HOOK_POINT, random_probes, torch_scores, write_rules_of
from running_monitor import wait_for
from tiny_models import hidden_states

from saeguard.monitor import watchlist as wl
from saeguard.monitor.alerts import RequestRecord
from saeguard.monitor.compile import compile_watchlist
from saeguard.monitor.recordings import recorded_request
from saeguard.monitor.sites import HookPoint
from saeguard.monitor.store import get_request, list_alerts
from saeguard.rules import Phase, load_rules
from saeguard.rules.recordings.offline import play

pytestmark = [pytest.mark.server, pytest.mark.offline]

ORGANISM = Path(__file__).resolve().parents[3] / "examples" / "organism" / "artifacts"
MODEL = ORGANISM / "model"
D_MODEL = 192
PROBES = random_probes(D_MODEL, seed=3)
NUM_REQUESTS, MAX_TOKENS = 8, 40
PATIENCE_S = 120.0


@dataclass
class Served:
    """One request that has ended."""

    prompt: list[int]
    answer: Answer
    record: RequestRecord


def prompts() -> list[list[int]]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    lines = (ORGANISM / "demo_requests.jsonl").read_text().splitlines()[:NUM_REQUESTS]
    return [
        tokenizer.apply_chat_template(
            json.loads(line)["messages"], add_generation_prompt=True, return_dict=False
        )
        for line in lines
    ]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("heads")
    ruleset = load_rules([write_rules_of(directory, PROBES)])
    wl.save(compile_watchlist(ruleset), directory / "watch.safetensors")
    config = {
        "version": 1, "rules": ["rules.yaml"], "watchlist": "watch.safetensors",
        "store": "alerts.sqlite", "record_share": 1.0,
    }  # fmt: skip
    (directory / "saeguard.yaml").write_text(yaml.safe_dump(config))
    return directory


@pytest.fixture(scope="module")
def served(work: Path) -> Iterator[list[Served]]:
    """Requests together, which is more than the KV cache holds, then a long one twice."""
    asked = prompts()
    asked += [asked[0] + asked[2]] * 2
    with LiveEngine(work, {"SAEGUARD_CONFIG": str(work / "saeguard.yaml")}) as engine:
        engine.start(
            model=str(MODEL), max_num_batched_tokens=24, max_num_seqs=8, block_size=32,
            num_gpu_blocks_override=13, enable_prefix_caching=True,
        )  # fmt: skip
        asks = [Ask(f"r{i}", p, max_tokens=MAX_TOKENS) for i, p in enumerate(asked)]
        answers = engine.drive(asks[:-2]) | engine.drive(asks[-2:-1]) | engine.drive(asks[-1:])
        found = []
        for prompt, ask in zip(asked, asks, strict=True):
            answer = answers[ask.id]
            store = work / "alerts.sqlite"
            wait_for(
                lambda store=store, id=answer.req_id: store.exists() and get_request(store, id),
                PATIENCE_S,
            )
            record = get_request(store, answer.req_id)
            assert record is not None
            found.append(Served(prompt, answer, record))
        yield found


def test_live_scores_are_those_of_hugging_face(served: list[Served]):
    worst = dict.fromkeys(PROBES, 0.0)
    layer = HookPoint.parse(HOOK_POINT).layer
    for each in served:
        record = each.record
        assert record.coverage.unseen == {}
        assert sorted(record.features) == sorted(PROBES)
        request = recorded_request(record)
        tokens = [*each.prompt, *each.answer.token_ids[0]][: len(request.positions)]
        x = hidden_states(MODEL, tokens)[layer][1:]
        assert set(request.phases) >= {Phase.PROMPT, Phase.ANSWER}
        for name, probe in PROBES.items():
            got = request.scores[1:, request.columns.index(name)]
            expected = torch_scores(probe, x, request.phases[1:])
            difference = np.abs(got - expected)
            if name == "angle":
                difference = np.minimum(difference, 360 - difference)
            worst[name] = max(worst[name], difference.max() / np.abs(expected).max())
    print({name: f"{error:.1e}" for name, error in worst.items()})
    assert max(worst.values()) < 1e-3


def test_requests_were_preempted_and_found_prefixes(served: list[Served]):
    """Or the test above says less than it seems to."""
    assert any(s.record.coverage.observed > len(s.record.phases) for s in served), "no preemption"
    assert served[-1].record.coverage.cached > 0


def test_rules_find_in_the_recordings_what_they_found_live(served: list[Served], work: Path):
    ruleset = load_rules([work / "rules.yaml"])
    alerts = list_alerts(work / "alerts.sqlite", limit=10_000)
    for each in served:
        live = [(a.rule_name, a.position) for a in alerts if a.req_id == each.record.req_id]
        again = [decision.match for decision in play(ruleset, [recorded_request(each.record)])]
        found = [(m.rule.name, m.position) for m in again if not m.limited]
        assert sorted(found) == sorted(live) != []
