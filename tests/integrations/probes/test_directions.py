"""Published directions become probes that score as they should, or are refused with what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.numpy import save_file

from saeguard.integrations.probes import read_probe_file
from saeguard.integrations.probes.command import app
from saeguard.monitor import watchlist as wl
from saeguard.monitor.compile import compile_watchlist
from saeguard.monitor.errors import CompileError, SaeguardError
from saeguard.rules import load_rules

SITE = "blocks.17.hook_resid_post"
ALL = np.random.default_rng(2).standard_normal((3, 4, 8)).astype(np.float32)
"""[positions, layers, d_model]"""


def run(file: Path, *options: str, site: str = SITE, name: str = "refusal") -> Path:
    output = file.parent / "probe.safetensors"
    app(
        ["import", str(file), "--site", site, "--name", name, "-o", str(output), *options],
        standalone_mode=False,
    )
    return output


def weight_of(path: Path) -> np.ndarray:
    return read_probe_file(path).probes["refusal"].tensors["weight"]


def save(path: Path, content: Any) -> Path:
    match path.suffix:
        case ".npy":
            np.save(path, content)
        case ".safetensors":
            save_file({"refusal_dir": content}, path)
        case _:
            torch.save(torch.tensor(content), path)
    return path


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".npy", ".safetensors"])
@pytest.mark.parametrize(
    ("content", "options", "wanted"),
    [
        (ALL[0, 0], (), ALL[0, 0]),
        (ALL[0], ("--layer", "2"), ALL[0, 2]),
        (ALL, ("--layer", "3", "--position", "-1"), ALL[2, 3]),
        (ALL[:1, :1], (), ALL[0, 0]),
    ],
)
def test_the_vector_that_is_meant_is_taken(tmp_path: Path, suffix: str, content, options, wanted):
    output = run(save(tmp_path / f"direction{suffix}", content), *options)
    np.testing.assert_array_equal(weight_of(output), wanted)
    assert str(read_probe_file(output).hook_point) == SITE


def test_a_dict_of_tensors_is_asked_for_its_key(tmp_path: Path):
    file = tmp_path / "directions.pt"
    torch.save({17: torch.tensor(ALL[0, 1]), "mean": torch.tensor(ALL[0, 2]), "n": 5}, file)
    with pytest.raises(CompileError, match=r"has 2 tensors: 17, mean \(choose one with --key\)"):
        run(file)
    np.testing.assert_array_equal(weight_of(run(file, "--key", "17")), ALL[0, 1])


def test_half_precision_is_read(tmp_path: Path):
    file = tmp_path / "direction.pt"
    torch.save(torch.tensor(ALL[0, 0]).bfloat16(), file)
    np.testing.assert_allclose(weight_of(run(file)), ALL[0, 0], rtol=1e-2)


def test_the_printed_lines_make_a_rule_that_scores_the_projection_above_the_threshold(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run(save(tmp_path / "mean diff.npy", 3 * ALL[0, 0]), "--normalise", "--threshold", "0.75")
    head, _, snippet = capsys.readouterr().out.partition("\n")
    assert "refusal at blocks.17.hook_resid_post, 8 numbers of norm" in head
    printed = yaml.safe_load(snippet)
    rule = {
        "id": "00000000-0000-4000-8000-000000000001", "name": "refuses", "title": "Refuses",
        "status": "test", "severity": "low",
        "signals": printed["signals"], "condition": printed["condition"],
    }  # fmt: skip
    rules = {"version": 1, "ruleset": {"name": "x", "version": "1"}, "rules": [rule]}
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rules | {"features": printed["features"]}))
    (site,) = compile_watchlist(load_rules([tmp_path / "rules.yaml"])).sites
    x = np.random.default_rng(3).standard_normal((5, 8))
    expected = x @ (ALL[0, 0] / np.linalg.norm(ALL[0, 0])) - 0.75
    np.testing.assert_allclose(wl.encode(x, site)[:, 0], expected, rtol=1e-5, atol=1e-6)


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("was_run"),))


def test_code_in_a_file_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"a": Evil()}, tmp_path / "direction.pt")
    with pytest.raises(CompileError, match="cannot be read as tensors"):
        run(tmp_path / "direction.pt")
    assert not (tmp_path / "was_run").exists()


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (ALL, (), r"3x4x8, with 3 positions \(give --position\)"),
        (ALL, ("--position", "0"), r"with 4 layers \(give --layer\)"),
        (ALL[0], ("--layer", "4"), "--layer 4 is not among the 4"),
        (ALL[0], ("--layer", "0", "--position", "0"), "--position has no meaning"),
        (ALL[0, 0], ("--layer", "0"), "--layer has no meaning"),
        (ALL[None], (), "directions are"),
        (0 * ALL[0, 0], (), "the direction is 0"),
        (np.nan * ALL[0, 0], (), "not finite"),
        (ALL[0, 0], ("--key", "x"), r"no tensor 'x' \(leave --key out"),
        (np.array(["a"]), (), "holds <U1, not numbers"),
    ],
)
def test_what_is_not_clear_is_refused_with_the_file(tmp_path: Path, content, options, message: str):
    file = save(tmp_path / "direction.npy", content)
    with pytest.raises(CompileError, match=message) as raised:
        run(file, *options)
    assert str(file) in str(raised.value)
    assert not (tmp_path / "probe.safetensors").exists()


@pytest.mark.parametrize("name", ["direction.pt", "direction.npy", "direction.safetensors"])
@pytest.mark.parametrize("content", [b"", b"\0" * 64, b"PK\x03\x04 and no more"])
def test_a_damaged_file_is_refused(tmp_path: Path, name: str, content: bytes):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CompileError, match="cannot be read as tensors"):
        run(tmp_path / name)


def test_pickled_objects_in_a_numpy_file_are_refused(tmp_path: Path):
    np.save(tmp_path / "direction.npy", np.array([Evil()], object), allow_pickle=True)
    with pytest.raises(CompileError, match="cannot be read as tensors"):
        run(tmp_path / "direction.npy")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"site": "layer 17"}, "hook point 'layer 17' cannot be watched"),
        ({"name": "Refusal!"}, "is no name of a feature"),
    ],
)
def test_a_wrong_site_or_name_is_refused(tmp_path: Path, options: dict, message: str):
    with pytest.raises(SaeguardError, match=message):
        run(save(tmp_path / "direction.npy", ALL[0, 0]), **options)


def test_a_threshold_that_is_no_number_is_refused(tmp_path: Path):
    with pytest.raises(CompileError, match="--threshold nan is no number"):
        run(save(tmp_path / "direction.npy", ALL[0, 0]), "--threshold", "nan")
    assert not (tmp_path / "probe.safetensors").exists()


def test_files_of_another_kind_or_none_are_refused(tmp_path: Path):
    with pytest.raises(CompileError, match=r"directions are read from \.pt"):
        run(tmp_path / "direction.txt")
    with pytest.raises(CompileError, match="no such file"):
        run(tmp_path / "direction.pt")
