"""`saeguard serve` says what is wrong before a model is loaded: one message, exit code 2."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fake_engine import RULES, write_rules

SAEGUARD = str(Path(sys.executable).with_name("saeguard"))


def serve(
    directory: Path, *arguments: object, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SAEGUARD, "serve", *map(str, arguments)],
        capture_output=True, text=True, timeout=60, cwd=directory,
        env={**os.environ, "XDG_CACHE_HOME": str(directory / "cache"), "COLUMNS": "200",
             **(env or {})},
    )  # fmt: skip


def write_model(directory: Path, **config: object) -> Path:
    model = directory / "model"
    model.mkdir()
    values = {"architectures": ["LlamaForCausalLM"], "hidden_size": 8, "num_hidden_layers": 4}
    (model / "config.json").write_text(json.dumps({**values, **config}))
    return model


def refuse(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("error:") == 1
    for part in parts:
        assert part in done.stderr


def test_a_model_directory_that_is_absent(tmp_path: Path):
    done = serve(tmp_path, "./nowhere", "--rules", write_rules(tmp_path))
    refuse(done, "./nowhere: no such model directory")


def test_a_watchlist_that_does_not_fit_the_model(tmp_path: Path):
    model = write_model(tmp_path, hidden_size=16)
    refuse(serve(tmp_path, model, "--rules", write_rules(tmp_path)), "d_model 8", "has 16")


def test_a_layer_that_the_model_does_not_have(tmp_path: Path):
    model = write_model(tmp_path, num_hidden_layers=1)
    refuse(serve(tmp_path, model, "--rules", write_rules(tmp_path)), "taps layer 1")


def test_an_architecture_without_an_entry(tmp_path: Path):
    model = write_model(tmp_path, architectures=["UnheardOfForCausalLM"])
    done = serve(tmp_path, model, "--rules", write_rules(tmp_path))
    refuse(done, "architecture UnheardOfForCausalLM", "supported: ")


def test_rules_that_are_not_yaml(tmp_path: Path):
    rules = tmp_path / "rules.yaml"
    rules.write_text("version: 1\nrules: [")
    refuse(serve(tmp_path, write_model(tmp_path), "--rules", rules), "rules.yaml:")


def test_a_feature_that_is_misspelt(tmp_path: Path):
    rules = write_rules(tmp_path)
    rules.write_text(RULES.replace("{feature: deceit,", "{feature: deciet,"))
    done = serve(tmp_path, write_model(tmp_path), "--rules", rules)
    refuse(done, "rules.yaml:15:22", "did you mean", "deceit")


def test_a_probe_that_its_file_does_not_have(tmp_path: Path):
    rules = write_rules(tmp_path)
    rules.write_text(RULES.replace("name: deceit, label", "name: decet, label"))
    done = serve(tmp_path, write_model(tmp_path), "--rules", rules)
    refuse(done, "rules.yaml:6:3", "has no probe 'decet'")


def test_a_port_that_is_taken(tmp_path: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        model = write_model(tmp_path)
        arguments = ["--", "--host", "127.0.0.1", "--port", port]
        done = serve(tmp_path, model, "--rules", write_rules(tmp_path), *arguments)
        refuse(done, f"port {port} is in use")


@pytest.mark.parametrize(("allowed", "hint"), [("lora,x", "lora,x,saeguard"), ("", "=saeguard")])
def test_an_allow_list_of_plugins_that_leaves_it_out(tmp_path: Path, allowed: str, hint: str):
    done = serve(tmp_path, "./m", "--rules", write_rules(tmp_path), env={"VLLM_PLUGINS": allowed})
    refuse(done, f"VLLM_PLUGINS={allowed} keeps vLLM from loading saeguard", hint)


def test_neither_rules_nor_a_configuration(tmp_path: Path):
    refuse(serve(tmp_path, write_model(tmp_path)), "--rules", "--config")


@pytest.mark.parametrize("command", [["--help"], ["serve", "--help"]])
def test_help_is_there(command: list[str]):
    done = subprocess.run([SAEGUARD, *command], capture_output=True, text=True, check=True)
    assert "Usage" in done.stdout


def test_the_plugin_adds_little_to_the_start_and_never_sae_lens():
    """In a process where vLLM is loaded anyway: what `register` and both `arm` modules import."""
    code = (
        "import sys, time\n"
        "from vllm.v1.core.sched.scheduler import Scheduler\n"
        "from vllm.v1.worker.gpu_worker import Worker\n"
        "start = time.perf_counter()\n"
        "from saeguard.integrations.vllm import register\n"
        "register()\n"
        "import saeguard.integrations.vllm.worker, saeguard.integrations.vllm.engine\n"
        "took = time.perf_counter() - start\n"
        "assert not {'sae_lens', 'transformer_lens'} & set(sys.modules)\n"
        "print(took)\n"
    )
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout.splitlines()[-1]) < 1.0, f"of {time.monotonic() - started:.1f} s"


def test_disabled_or_not_configured_nothing_that_runs_per_step_is_wrapped():
    code = (
        "import os\n"
        "from vllm.v1.core.sched.scheduler import Scheduler\n"
        "from vllm.v1.worker.gpu_worker import Worker\n"
        "hot = lambda: [Scheduler.schedule, Scheduler.add_request, Scheduler._free_request,"
        " Scheduler.update_from_output, Worker.execute_model, Worker.sample_tokens]\n"
        "gates = lambda: [Scheduler.__init__, Worker.load_model]\n"
        "before, before_gates = hot(), gates()\n"
        "from saeguard.integrations.vllm import register\n"
        "os.environ['SAEGUARD_DISABLE'] = '1'\n"
        "register()\n"
        "assert hot() == before and gates() == before_gates\n"
        "del os.environ['SAEGUARD_DISABLE']\n"
        "register(); once = gates(); register()\n"
        "assert hot() == before and gates() == once != before_gates\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
