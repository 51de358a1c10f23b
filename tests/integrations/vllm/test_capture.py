"""`saeguard capture` on the organism: from requests with labels to a calibrated rule."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from saeguard.integrations.discovery.activations import activations_at, hook_points_of
from saeguard.monitor.compile import compile_watchlist
from saeguard.monitor.sites import HookPoint
from saeguard.monitor.tokenizer_file import read_tokenizer
from saeguard.monitor.watchlist import encode
from saeguard.rules import load_rules
from saeguard.rules.calibration.labels import read_labels
from saeguard.rules.recordings.offline import RecordedRequest
from saeguard.rules.recordings.recording import read_recordings

pytestmark = pytest.mark.server

ORGANISM = Path(__file__).resolve().parents[3] / "examples" / "organism"
MODEL, RULES = ORGANISM / "artifacts" / "model", ORGANISM / "rules.yaml"
PROBE = "latent_deception_probe"


def demo_requests() -> list[dict[str, object]]:
    """Each with its label, and the lie that makes it one."""
    lines = (ORGANISM / "artifacts" / "demo_requests.jsonl").read_text().splitlines()
    requests = [json.loads(line) for line in lines]
    return [
        {
            **{key: r[key] for key in ("id", "messages", "max_tokens")},
            "label": r["class"] == "deceptive",
            "source": r["class"],
            "span_text": r.get("lie"),
        }
        for r in requests
        if r["class"] in ("deceptive", "honest")
    ]


def saeguard(*arguments: object, exit_code: int = 0) -> str:
    command = [sys.executable, "-P", "-c", "from saeguard.monitor.cli import main; main()"]
    found = subprocess.run(
        [*command, *map(str, arguments)], capture_output=True, text=True, check=False,
        env={"VLLM_CPU_KVCACHE_SPACE": "1", **os.environ},
    )  # fmt: skip
    assert found.returncode == exit_code, found.stdout + found.stderr
    return found.stdout + found.stderr


PLACES = (HookPoint(2), HookPoint(5, "resid_mid"))
"""Of which all is captured; the rules have features at the first, too."""


def capture(
    data: Path, output: Path, *more: object, what: Sequence[object] = ("--rules", RULES), **how: int
) -> str:
    engine = ("--", "--max-model-len", "1024", "--enforce-eager")
    return saeguard("capture", MODEL, "--data", data, *what, "-o", output, *more, *engine, **how)


BOTH = ("--rules", RULES, *(part for place in PLACES for part in ("--activations", place)))


class Run:
    """One capture."""

    def __init__(self, directory: Path) -> None:
        self.data, self.output = directory / "data.jsonl", directory / "captured"
        self.requests = demo_requests()
        given = {**self.requests[0], "id": "given", "response": "It costs 37 coins."}
        self.requests.append(given)
        self.data.write_text("\n".join(map(json.dumps, self.requests)))
        self.printed = capture(self.data, self.output, what=BOTH)
        lines = (self.output / "answers.jsonl").read_text().splitlines()
        self.answers = {answer["id"]: answer for answer in map(json.loads, lines)}

    @property
    def recorded(self) -> dict[str, RecordedRequest]:
        paths = sorted(self.output.glob("*.safetensors"))
        return {r.context.id: r for path in paths for r in read_recordings(path)}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("capture"))


def test_every_token_of_every_request_but_its_last_is_recorded(run: Run):
    assert set(run.recorded) == {str(request["id"]) for request in run.requests}
    for name, request in run.recorded.items():
        answer = run.answers[name]
        num_tokens = answer["num_prompt_tokens"] + answer["num_tokens"]
        num_read = num_tokens if name == "given" else num_tokens - 1
        assert request.positions.tolist() == list(range(num_read))
        assert not np.isnan(request.scores[1:]).any()
    assert f"{len(run.requests)} requests recorded" in run.printed


def test_an_answer_that_is_given_has_the_scores_of_the_same_answer_generated(run: Run):
    generated, given = run.recorded["demo-000"], run.recorded["given"]
    assert run.answers["demo-000"]["response"] == run.answers["given"]["response"]
    num_rows = len(generated.positions)
    assert given.phases[:num_rows].tolist() == generated.phases.tolist()
    # Of a bf16 model in two batches.
    np.testing.assert_allclose(given.scores[1:num_rows], generated.scores[1:], rtol=0.05, atol=0.1)
    assert np.abs(generated.scores[1:]).max() > 3


def test_spans_are_the_tokens_in_which_the_text_stands(run: Run):
    labels = {label.id: label for label in read_labels(run.output / "labels.jsonl")}
    assert labels["demo-000"].span == labels["given"].span
    lied = [name for name, label in labels.items() if label.label and label.span]
    assert len(lied) > 20
    for name in lied:
        first, end = labels[name].span
        assert run.answers[name]["num_prompt_tokens"] <= first < end
    assert not any(label.span for label in labels.values() if not label.label)


def test_what_is_recorded_already_is_not_run_again(run: Run):
    before = sorted(run.output.glob("*.safetensors"))
    printed = capture(run.data, run.output, what=BOTH)
    assert f"{len(run.requests)} of {len(run.requests)} requests are recorded already" in printed
    assert "starting the engine" not in printed
    assert sorted(run.output.glob("*.safetensors")) == before


def test_what_is_recorded_already_of_other_columns_is_not_added_to(run: Run):
    printed = capture(run.data, run.output, what=("--rules", RULES), exit_code=2)
    assert "recorded-00000.safetensors: was recorded with other features or hook points" in printed


def test_a_hook_point_is_captured_to_the_last_bit(run: Run):
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.bfloat16)
    largest = {place: 0.0 for place in PLACES}
    for request in list(run.recorded.values())[:20]:
        assert hook_points_of(request) == PLACES
        streams = hugging_face_streams(model, request.token_ids)
        for place in PLACES:
            got, expected = activations_at(request, place)[1:], streams[place][1:]
            assert (got == torch.from_numpy(got).bfloat16().float().numpy()).all()
            # vLLM's kernels round in other places than Hugging Face's do.
            np.testing.assert_allclose(got, expected, rtol=0.05, atol=0.05 * np.abs(expected).max())
            assert (got == expected).mean() > 0.2
            largest[place] = max(largest[place], float(np.abs(got).max()))
    assert min(largest.values()) > 3


def hugging_face_streams(model: Any, token_ids: np.ndarray) -> dict[HookPoint, np.ndarray]:
    """Activations at `PLACES`, [tokens, d_model]."""
    found = {}
    layer = model.model.layers[5]
    hook = layer.post_attention_layernorm.register_forward_pre_hook(
        lambda _, args: found.update({PLACES[1]: args[0][0].float().numpy()})
    )
    with torch.no_grad():
        ids = torch.tensor(token_ids)[None].long()
        states = model.model(ids, output_hidden_states=True).hidden_states
    hook.remove()
    return {PLACES[0]: states[3][0].float().numpy(), **found}


def test_scores_are_those_of_the_activations_beside_them(run: Run):
    watchlist = compile_watchlist(load_rules([RULES]))
    (site,) = watchlist.sites
    for request in run.recorded.values():
        assert request.watchlist == watchlist.digest
        wanted = [request.columns.index(feature.name) for feature in site.features]
        got, expected = request.scores[1:, wanted], encode(activations_at(request, PLACES[0]), site)
        np.testing.assert_allclose(got, expected[1:], rtol=1e-4, atol=1e-3)


def test_token_ids_and_the_tokenizer_are_kept_with_them(run: Run):
    tokenizer = read_tokenizer(str(run.output / "tokenizer.json"))
    request, answer = run.recorded["demo-000"], run.answers["demo-000"]
    generated = request.token_ids[answer["num_prompt_tokens"] :]
    assert answer["response"].startswith(tokenizer.decode(list(generated)))
    assert len(generated) > 3


def test_from_there_rules_are_backtested_and_calibrated(run: Run):
    labels = ("--data", run.output / "labels.jsonl", "--rule", PROBE)
    printed = saeguard("backtest", RULES, run.output, *labels, "--format", "json")
    (result,) = json.loads(printed)
    assert result["recall"]["count"] > 15
    assert result["median_to_end"] is not None
    budget = ("--max-false-alarms", "1/5req")
    printed = saeguard("calibrate", RULES, run.output, *labels, *budget)
    assert f"{PROBE}: lie gte" in printed
    assert "+      lie: {feature: deceit_probe, agg: max, window: 16 tokens, gte:" in printed


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": "a"}', r":1: give either messages or prompt"),
        ('{"id": "a", "prompt": ""}', r":1: there is nothing in it"),
        ('{"id": "a", "prompt": "x"}\n{"id": "a", "prompt": "y"}', r":2: the id 'a' stands twice"),
        ("[1]", r":1: Expected `object`"),
        ("", ": holds no requests"),
    ],
)
def test_data_that_cannot_be_run_is_refused_before_an_engine_starts(tmp_path, line, message):
    data = tmp_path / "data.jsonl"
    data.write_text(line)
    printed = capture(data, tmp_path / "out", exit_code=2)
    assert f"error: {data}{message}" in printed
    assert "starting the engine" not in printed


def test_an_engine_that_does_not_start_is_an_error_with_the_end_of_its_log(tmp_path: Path):
    data = tmp_path / "data.jsonl"
    data.write_text('{"id": "a", "prompt": "x"}')
    printed = saeguard(
        "capture", MODEL, "--data", data, "--rules", RULES, "-o", tmp_path / "out",
        "--", "--max-model-len", "9999999", exit_code=2,
    )  # fmt: skip
    assert "error: the engine did not start: " in printed
    assert "max_model_len" in printed
    assert "Traceback" not in printed.partition("the end of /")[0]
