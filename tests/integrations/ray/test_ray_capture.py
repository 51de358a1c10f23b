"""`saeguard capture --ray`: an engine in each of two workers, of which one is killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from ray_cluster import printed, run, running, wait_for

from saeguard.monitor.store import list_requests
from saeguard.rules.recordings.recording import read_recordings

pytestmark = [pytest.mark.server, pytest.mark.offline]

ORGANISM = Path(__file__).resolve().parents[3] / "examples" / "organism"
NUM_PARTS, NUM_IN_PART = 6, 5
SMALL_PARTS = (
    f"from saeguard.integrations.vllm.capture import bounds; bounds._MANY = {NUM_IN_PART}; "
)
ENGINE = ("--max-model-len", "256", "--enforce-eager", "--max-num-seqs", "2")


def capture(output: str, *ray: str) -> tuple[str, ...]:
    model, rules = str(ORGANISM / "artifacts" / "model"), str(ORGANISM / "rules.yaml")
    what = ("capture", model, "--data", "data.jsonl", "--rules", rules, "-o", output)
    return (*what, *ray, "--", *ENGINE)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With requests."""
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB: there is room for two
    lines = (ORGANISM / "artifacts" / "demo_requests.jsonl").read_text().splitlines()
    requests = [json.loads(line) for line in lines[: NUM_PARTS * NUM_IN_PART]]
    for request in requests:
        request |= {"label": request["class"] == "deceptive", "span_text": request.get("lie")}
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, requests)))
    return tmp_path


def test_two_workers_finish_a_capture_as_one_process_does_though_one_is_killed(folder: Path):
    alone = run(folder, *capture("alone"), before=SMALL_PARTS)
    assert alone.exit_code == 0, alone.err
    shutil.copytree(folder / "alone", folder / "sharded")
    for part in range(1, NUM_PARTS):
        (folder / "sharded" / f"recorded-{part:05}.safetensors").unlink()
    two = ("--ray", "--ray-workers", "2", "--ray-gpus", "0.5")  # of one that Ray takes on trust
    with running(folder, *capture("sharded", *two), before=SMALL_PARTS) as process:
        kill_in_a_part(work_directory(process), process)
        sharded = printed(process)
    assert (sharded.exit_code, sharded.out) == (0, alone.out.replace("alone", "sharded"))
    assert_same(folder / "alone", folder / "sharded")


def work_directory(process: subprocess.Popen[bytes]) -> Path:
    """As it is printed."""
    assert process.stderr is not None
    for line in process.stderr:
        if b"their logs are" in line:
            return Path(line.decode().split()[-1]).parents[1]
    raise AssertionError(f"ended with {process.wait()}")


def kill_in_a_part(work: Path, process: subprocess.Popen[bytes]) -> None:
    """Kill a worker that has some requests of a part behind it, and not all."""

    def is_killed() -> bool:
        for directory in work.glob("engine-*"):
            pid = int(directory.name.removeprefix("engine-"))
            if is_within_part(directory):
                os.kill(pid, signal.SIGSTOP)  # from here on it gives nothing back
                if is_within_part(directory):
                    os.kill(pid, signal.SIGKILL)
                    return True
                os.kill(pid, signal.SIGCONT)
        return False

    wait_for(is_killed, process)


def is_within_part(directory: Path) -> bool:
    """What has been recorded there is not a number of whole parts."""
    store = directory / "alerts.sqlite"
    return store.exists() and len(list_requests(store)) % NUM_IN_PART > 0


def assert_same(expected: Path, got: Path) -> None:
    """But for the times at which requests were run."""
    names = sorted(path.name for path in expected.iterdir())
    assert names == sorted(path.name for path in got.iterdir())
    assert len(names) == NUM_PARTS + 3
    for name in names:
        if name.endswith(".safetensors"):
            for a, b in zip(*map(read_recordings, (expected / name, got / name)), strict=True):
                for field in fields(a):
                    if field.name not in ("time_ns", "source"):
                        values = getattr(b, field.name), getattr(a, field.name)
                        np.testing.assert_equal(*values, f"{a.context.id} {field.name}")
        else:
            assert (got / name).read_bytes() == (expected / name).read_bytes(), name
