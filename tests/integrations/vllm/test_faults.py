"""What is wrong is said in one line, and serving goes on, or does not where it must not."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml
from engine_run import EngineRun, Inbox, run_engine
from tiny_models import make_model, make_watchlist

from saeguard.monitor import watchlist as wl
from saeguard.monitor.messages import ENGINE_CORE, TapStatus

pytestmark = pytest.mark.server

PROMPTS = [[5, 9, 17, 40]]
FAULTS = {
    "missing_watchlist": "absent.safetensors: no such watchlist",
    "damaged_watchlist": "cannot be read as a watchlist",
    "wrong_d_model": "the watchlist is for d_model 32",
    "wrong_layer": "the watchlist taps layer 9",
    "broken_config": "saeguard.yaml:1:11",
    "absent_config": "No such file",
    "unknown_architecture": "architecture OPTForCausalLM has no entry",
    "bad_additional_config": "no path under 'config'",
    "no_custom_op": "cannot import name 'direct_register_custom_op'",
    "no_finish_requests": "Scheduler has no finish_requests",
}
MISSING = {  # what vLLM is made to lack, and who finds it
    "no_custom_op": (["vllm.utils.torch_utils:direct_register_custom_op"], 0),
    "no_finish_requests": (
        [
            "vllm.v1.core.sched.scheduler:Scheduler.finish_requests",
            "vllm.v1.core.sched.interface:SchedulerInterface.finish_requests",
        ],
        ENGINE_CORE,
    ),
}


def write_fault(directory: Path, fault: str) -> dict[str, object]:
    """A model, beside it a configuration with this fault; returns additional_config."""
    make_model(directory / "model", *(["opt"] if fault == "unknown_architecture" else []))
    small = fault == "wrong_d_model"
    layers = [9] if fault == "wrong_layer" else [1]
    wl.save(make_watchlist(layers, d_model=32 if small else 64), directory / "watch.safetensors")
    if fault == "damaged_watchlist":
        (directory / "watch.safetensors").write_bytes(b"not a watchlist")
    (directory / "run").mkdir(mode=0o700)
    values = {
        "version": 1,
        "rules": ["rules.yaml"],
        "watchlist": "absent.safetensors" if fault == "missing_watchlist" else "watch.safetensors",
        "start_monitor": False,
        "run_dir": "run",
        "fail": "closed" if fault == "fail_closed" else "open",
    }
    if fault == "fail_closed":
        values["colour"] = "a key that does not exist: the file's own fault must not open it"
    config = directory / "saeguard.yaml"
    if fault != "absent_config":
        config.write_text("version: [" if fault == "broken_config" else yaml.safe_dump(values))
    return {"saeguard": {} if fault == "bad_additional_config" else {"config": str(config)}}


@dataclass
class FaultyRun(EngineRun):
    inboxes: dict[str, Inbox] = field(default_factory=dict)
    """What the monitor was told, by fault."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> FaultyRun:
    """One process that starts an engine for every fault in turn, none of which lacks a monitor."""
    work = tmp_path_factory.mktemp("faults")
    jobs, inboxes = [], {}
    with ExitStack() as closed:
        for fault in [*FAULTS, "fail_closed"]:
            additional = write_fault(work / fault, fault)
            without = {"without": MISSING[fault][0]} if fault in MISSING else {}
            jobs.append((work / fault / "model", {"additional_config": additional, **without}))
            inboxes[fault] = Inbox(work / fault / "run")
            closed.callback(inboxes[fault].close)
        run = run_engine(
            work / "run", jobs[0][0], None, PROMPTS, max_tokens=3,
            engine={"enforce_eager": True, **jobs[0][1]}, more_jobs=jobs[1:], timeout_s=600,
        )  # fmt: skip
    return FaultyRun(**vars(run), inboxes=inboxes)


def result_of(run: EngineRun, fault: str) -> dict[str, object]:
    return next(
        result for model, result in run.by_model.items() if model.endswith(f"/{fault}/model")
    )


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_ours_is_named_and_the_model_is_served(run: EngineRun, fault: str):
    assert len(result_of(run, fault)["outputs"][0]) == 3
    lines = [line for line in run.log.splitlines() if "BLIND" in line and FAULTS[fault] in line]
    assert len(lines) == 1, run.log[-3000:]


@pytest.mark.parametrize("missing", MISSING)
def test_what_this_vllm_lacks_is_told_to_the_monitor(run: FaultyRun, missing: str):
    _, rank = MISSING[missing]
    dead = [m for m in run.inboxes[missing].messages if isinstance(m, TapStatus) and not m.alive]
    assert [status.rank for status in dead] == [rank]
    assert FAULTS[missing] in dead[0].reason


def test_where_the_configuration_says_so_the_model_is_not_served(run: EngineRun):
    error = str(result_of(run, "fail_closed")["error"])
    assert "fail: closed" in error
    assert "colour" in error
