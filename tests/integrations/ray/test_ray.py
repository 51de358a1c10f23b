"""`saeguard backtest --ray`: real clusters on this machine, and workers that are killed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from calibration_data import RULES, examples
from planted import Planted, write_sae
from ray_cluster import Gate, printed, ray_cluster, run, running

from saeguard.rules.calibration.labels import write_labels
from saeguard.rules.recordings.recording import write_recordings

NUM_FILES, NUM_IN_FILE = 5, 40
BACKTEST = ("backtest", "rules.yaml", "recorded", "--data", "labels.jsonl", "--format", "json")


@pytest.fixture(scope="module")
def cluster() -> Iterator[tuple[str, ...]]:
    """Options for a cluster that is there."""
    with ray_cluster(num_cpus=2) as address:
        yield ("--ray", "--ray-address", address)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Rules, labels, and recordings in several files."""
    known = examples(NUM_FILES * NUM_IN_FILE, source="arena")
    (tmp_path / "rules.yaml").write_text(RULES)
    (tmp_path / "recorded").mkdir()
    requests = [example.request for example in known]
    for i in range(NUM_FILES):
        part = requests[i * NUM_IN_FILE : (i + 1) * NUM_IN_FILE]
        write_recordings(tmp_path / "recorded" / f"{i}.safetensors", part)
    write_labels(tmp_path / "labels.jsonl", [example.label for example in known])
    return tmp_path


def test_two_workers_say_byte_for_byte_what_one_process_says_though_one_is_killed(folder: Path):
    alone = run(folder, *BACKTEST)
    assert alone.exit_code == 0
    assert f'"total": {NUM_FILES * NUM_IN_FILE // 2}' in alone.out
    gate = Gate(folder / "recorded" / "1.safetensors")
    with running(folder, *BACKTEST, "--ray", "--ray-workers", "2") as sharded:
        gate.kill_reader(sharded)
        gate.open(sharded)
        assert printed(sharded) == alone


def test_what_is_wrong_with_the_first_bad_recording_is_told_as_without_ray(folder: Path, cluster):
    for name in ("1.safetensors", "3.safetensors"):
        (folder / "recorded" / name).write_bytes(b"no recording")
    alone = run(folder, *BACKTEST)
    assert (alone.exit_code, alone.out) == (2, "")
    assert alone.err.startswith("error: recorded/1.safetensors: cannot be read as a recording")
    assert run(folder, *BACKTEST, *cluster) == alone


def test_features_are_discovered_in_blocks_as_without_ray(tmp_path: Path, cluster):
    write_sae(tmp_path / "sae", np.eye(24))
    (tmp_path / "acts").mkdir()
    planted = Planted(tmp_path / "acts")
    for i in range(120):
        label = i % 3 == 0
        height = planted.rng.normal(3.0, 1.2)
        planted.add(label, {0: [0.0, height]} if label else {}, group=f"g{i // 6}", source="x")
    planted.write()
    in_three = (
        "from saeguard.integrations.discovery import ranking; ranking._POOLED_NUMBERS = 120 * 9; "
    )
    discover = ("discover", "sae", "acts", "--data", "acts/labels.jsonl", "--format", "json")
    alone = run(tmp_path, *discover, before=in_three)
    assert alone.exit_code == 0
    assert run(tmp_path, *discover, *cluster, before=in_three) == alone


def test_a_recording_that_ends_every_worker_is_named_in_the_end(folder: Path, cluster):
    gate = Gate(folder / "recorded" / "1.safetensors")
    with running(folder, *BACKTEST, *cluster) as sharded:
        for _ in range(3):
            gate.kill_reader(sharded)
        ended = printed(sharded)
    assert (ended.exit_code, ended.out) == (2, ""), ended.err
    assert ended.err.startswith("error: recorded/1.safetensors has ended 3 workers of Ray\n")


def test_where_no_cluster_is_that_is_said(folder: Path):
    ended = run(folder, *BACKTEST, "--ray", "--ray-address", "127.0.0.1:9")
    assert (ended.exit_code, ended.out) == (2, "")
    assert ended.err.startswith("error: no Ray at 127.0.0.1:9: ")
    assert "Traceback" not in ended.err


def test_without_ray_the_message_names_the_extra(folder: Path):
    no_ray = "import sys; sys.modules['ray'] = None; "
    ended = run(folder, *BACKTEST, "--ray", before=no_ray)
    assert (ended.exit_code, ended.out) == (2, "")
    assert "error: --ray needs Ray, which cannot be imported" in ended.err
    assert "pip install 'saeguard[ray]'" in ended.err
    assert run(folder, *BACKTEST, before=no_ray).exit_code == 0
