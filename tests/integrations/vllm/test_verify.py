"""`saeguard verify` proves an engine that is well, and notices each way in which it is not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
from fake_engine import write_rules
from live_engine import SHIMS
from tiny_models import make_model
from watched_engine import write_watched_config

from saeguard.integrations.vllm.verify.check import NAMES, Check
from saeguard.integrations.vllm.verify.checks import cache_key, run_checks
from saeguard.integrations.vllm.verify.engine import Engine
from saeguard.integrations.vllm.verify.reference import NoReferenceError, compute
from saeguard.integrations.vllm.verify.report import is_proven
from saeguard.integrations.vllm.verify.score_checks import referenced, values
from saeguard.integrations.vllm.verify.session import Evidence, run_session
from saeguard.integrations.vllm.verify.setting import Setting, write_setting
from saeguard.monitor import watchlist as wl

ORGANISM = Path(__file__).resolve().parents[3] / "examples" / "organism"
SAEGUARD = str(Path(sys.executable).with_name("saeguard"))
ENGINE_ARGS = [
    "--enforce-eager", "--dtype", "float32", "--max-model-len", "256",
    "--max-num-batched-tokens", "64", "--block-size", "32",
]  # fmt: skip
FAST = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "TORCHDYNAMO_DISABLE": "1",
    "HF_HUB_OFFLINE": "1",
}


@dataclass
class Bench:
    """A live engine that can be broken."""

    engine: Engine
    setting: Setting
    way: Path

    def session(self, way: str = "", patience_s: float = 20.0) -> Evidence:
        self.way.write_text(way)
        try:
            return run_session(self.engine, self.setting, patience_s)
        finally:
            self.way.write_text("")

    def prove(self, way: str = "", patience_s: float = 20.0) -> dict[str, Check]:
        evidence = self.session(way, patience_s)
        sequences = [seen.token_ids for seen in referenced(evidence)]
        reference = compute(evidence.after, self.setting.watchlist_file, sequences)
        return {check.name: check for check in run_checks(evidence, reference)}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    directory = tmp_path_factory.mktemp("verify")
    model = make_model(directory / "model")
    write_watched_config(directory, SimpleNamespace(endpoint="http://127.0.0.1:9"))
    watchlist = wl.load(directory / "watch.safetensors")
    work = directory / "work"
    work.mkdir()
    setting = write_setting(work, watchlist, [directory / "rules.yaml"])
    way = directory / "way"
    way.write_text("")
    env = {
        **FAST,
        "SAEGUARD_CONFIG": str(setting.config),
        "SABOTAGE": str(way),
        "PYTHONPATH": str(SHIMS / "sabotage"),
    }
    with Engine(str(model), ENGINE_ARGS, work / "engine.log", env) as engine:
        assert engine.facts.workers[0].is_watched, engine.log_lines("BLIND")
        yield Bench(engine, setting, way)


def failed(checks: dict[str, Check]) -> set[str]:
    return {check.name for check in checks.values() if check.result == "failed"}


@pytest.mark.server
def test_an_engine_that_is_well_is_proven(bench: Bench):
    checks = bench.prove()
    assert is_proven(checks.values()), checks
    assert set(checks) == set(NAMES) - {"cost"}
    assert checks["taps"].numbers["taps"] == 2
    assert checks["values"].numbers["error"] <= 1e-4
    assert checks["values"].numbers["rows"] > 800
    assert "in chunks of 64" in checks["rows"].detail
    assert checks["rows"].numbers["misattributed"] == 0
    assert checks["prefix cache"].numbers["cached"] == 64
    assert checks["ledger"].numbers["cached"] == 64
    assert 0 < checks["monitor"].numbers["latency_ms"] < 5_000


@pytest.mark.server
def test_scores_that_are_all_a_little_too_large_are_noticed(bench: Bench):
    checks = bench.prove("scores are 1 % too large")
    assert failed(checks) == {"values"}
    assert "1.0100 times what they should be" in checks["values"].detail


@pytest.mark.server
def test_taps_that_are_gone_are_noticed(bench: Bench):
    checks = bench.prove("the taps are gone", patience_s=8)
    assert failed(checks) == set(NAMES) - {"cache key", "cost"}
    assert "ran 0 times" in checks["taps"].detail


@pytest.mark.server
def test_frames_that_are_lost_are_noticed(bench: Bench):
    checks = bench.prove("every tenth frame is lost", patience_s=8)
    assert {"values", "rows", "ledger"} <= failed(checks)
    assert "dropped_frame" in checks["ledger"].detail
    assert checks["taps"].result == "ok"


@pytest.mark.server
def test_rows_of_two_requests_that_are_swapped_are_noticed(bench: Bench):
    checks = bench.prove("two requests are swapped", patience_s=8)
    assert {"values", "rows"} <= failed(checks)
    assert "those of another request" in checks["rows"].detail
    assert checks["taps"].result == "ok"


@pytest.mark.server
def test_a_monitor_that_hears_nothing_is_noticed(bench: Bench):
    checks = bench.prove("the monitor hears nothing", patience_s=1)
    assert {"monitor", "ledger", "values", "rows"} <= failed(checks)
    assert "no alert" in checks["monitor"].detail


@pytest.mark.server
def test_without_hugging_face_nothing_is_said_of_the_values(bench: Bench):
    check = values(bench.session(), NoReferenceError("transformers cannot load it: why"))
    assert check.result == "unproven"
    assert check.detail == "transformers cannot load it: why"
    assert not is_proven([check])


@pytest.mark.server
def test_a_compile_cache_that_does_not_know_the_taps_is_noticed(bench: Bench):
    assert cache_key(bench.engine.look()).result == "ok"
    bench.session("the cache key is forgotten")
    check = cache_key(bench.engine.look())
    assert check.result == "failed"
    assert "does not name the taps" in check.detail


def verify(directory: Path, *arguments: object, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SAEGUARD, "verify", *map(str, arguments)],
        capture_output=True, text=True, timeout=300, cwd=directory,
        env={**os.environ, **FAST, "COLUMNS": "200", **env},
    )  # fmt: skip


@pytest.mark.server
def test_the_organism_is_proven_with_its_sae_and_what_it_costs_is_measured(tmp_path: Path):
    model, rules = ORGANISM / "artifacts" / "model", ORGANISM / "rules.yaml"
    done = verify(tmp_path, model, "--rules", rules, "--format", "json", "--", "--enforce-eager")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["proven"] is True
    assert [check["name"] for check in report["checks"]] == list(NAMES)
    assert {check["result"] for check in report["checks"]} == {"ok"}
    cost = report["checks"][-1]["numbers"]
    assert cost["lowest_percent"] <= cost["percent"] <= cost["highest_percent"] < 100


def refuse(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    for part in parts:
        assert part in done.stderr


def write_model(directory: Path, hidden_size: int = 8) -> Path:
    model = directory / "model"
    model.mkdir()
    values = {
        "architectures": ["LlamaForCausalLM"], "hidden_size": hidden_size, "num_hidden_layers": 4,
    }  # fmt: skip
    (model / "config.json").write_text(json.dumps(values))
    return model


def test_a_model_that_is_absent_is_said_before_anything_starts(tmp_path: Path):
    done = verify(tmp_path, "./nowhere", "--rules", write_rules(tmp_path))
    refuse(done, "error: ./nowhere: no such model directory")


def test_a_watchlist_for_another_width_is_said_before_anything_starts(tmp_path: Path):
    done = verify(tmp_path, write_model(tmp_path, 16), "--rules", write_rules(tmp_path))
    refuse(done, "d_model 8", "has 16")


def test_rules_that_are_wrong_are_said_before_anything_starts(tmp_path: Path):
    rules = tmp_path / "rules.yaml"
    rules.write_text("version: 1\nrules: [")
    refuse(verify(tmp_path, write_model(tmp_path), "--rules", rules), "rules.yaml:")


def test_a_folder_that_holds_something_is_not_written_to(tmp_path: Path):
    rules = write_rules(tmp_path)
    done = verify(tmp_path, write_model(tmp_path), "--rules", rules, "--work", tmp_path)
    refuse(done, "is not empty")


@pytest.mark.server
def test_an_engine_that_does_not_start_is_shown_with_the_end_of_its_log(tmp_path: Path):
    model, rules = write_model(tmp_path), write_rules(tmp_path)
    done = verify(tmp_path, model, "--rules", rules, "--", "--no-such-argument")
    refuse(done, "error: the plain engine did not start", "unrecognized arguments")
