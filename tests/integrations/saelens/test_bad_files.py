"""A file that is damaged, hostile or of another kind is refused with its path, and nothing of it is
run.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from saes import make_sae, write_rules
from safetensors.numpy import save_file

from saeguard.integrations.saelens.tensors import open_tensors
from saeguard.monitor.compile import compile_watchlist
from saeguard.monitor.errors import CompileError
from saeguard.rules import load_rules

pytest.importorskip("sae_lens")


def compile_sae(folder: Path, **sae: object) -> None:
    compile_watchlist(load_rules([write_rules(folder, [1, 5], sae)]))


def weights_of(folder: Path) -> Path:
    return folder / "sae" / "sae_weights.safetensors"


def cut(path: Path, num_bytes: int) -> None:
    path.write_bytes(path.read_bytes()[:num_bytes])


def without_b_enc(path: Path) -> None:
    save_file({"W_enc": np.zeros((24, 96), np.float32)}, path)


def of_other_shapes(path: Path) -> None:
    weights = {"W_enc": np.zeros((24, 96)), "b_enc": np.zeros(95), "b_dec": np.zeros(24)}
    save_file({**weights, "threshold": np.zeros(96)}, path)


def empty(path: Path) -> None:
    names = ("b_enc", "b_dec", "threshold")
    save_file({"W_enc": np.zeros((0, 96)), **{name: np.zeros(96) for name in names}}, path)


def of_integers(path: Path) -> None:
    save_file({"W_enc": np.zeros((24, 96), np.int64), "b_enc": np.zeros(96, np.int64)}, path)


def not_finite(path: Path) -> None:
    weights = {"W_enc": np.full((24, 96), np.nan), "b_enc": np.zeros(96), "b_dec": np.zeros(24)}
    save_file({**weights, "threshold": np.zeros(96)}, path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.unlink(), "no such file"),
        (lambda path: path.write_bytes(b""), "not a .safetensors file of tensors"),
        (lambda path: path.write_bytes(b"\xff" * 64), "not a .safetensors file of tensors"),
        (lambda path: path.write_bytes(b"\x02" + bytes(7) + b"[]"), "not a .safetensors file"),
        (lambda path: cut(path, 40), "its header is cut short"),
        (lambda path: cut(path, path.stat().st_size - 8), "does not fit into it"),
        (without_b_enc, "has no tensor 'b_enc'"),
        (of_other_shapes, "the encoder has 96 features, its biases and thresholds are for 95"),
        (empty, r"the encoder is empty: \(96, 0\)"),
        (of_integers, "has no tensor 'b_enc'"),
        (not_finite, "row 1 of .* holds numbers that are not finite"),
    ],
)
def test_weights_that_cannot_be_read_are_refused(
    tmp_path: Path, spoil: Callable[[Path], object], message: str
):
    make_sae(tmp_path / "sae", "jumprelu", True)
    spoil(weights_of(tmp_path))
    with pytest.raises(CompileError, match=f"sae_weights.safetensors.*{message}|{message}"):
        compile_sae(tmp_path)


@pytest.mark.parametrize("config", ["", "[]", "{", '{"architecture": {}}', '{"metadata": 3}'])
def test_a_configuration_that_is_none_is_refused(tmp_path: Path, config: str):
    make_sae(tmp_path / "sae", "jumprelu", True)
    (tmp_path / "sae" / "cfg.json").write_text(config)
    with pytest.raises(CompileError, match="sae"):
        compile_sae(tmp_path)


def test_a_folder_of_no_known_layout_lists_those_that_are(tmp_path: Path):
    (tmp_path / "sae").mkdir()
    with pytest.raises(CompileError, match=r"no SAE of a layout .*sparsify: cfg.json and sae.saf"):
        compile_sae(tmp_path)
    with pytest.raises(CompileError, match="no such SAE"):
        compile_sae(tmp_path, path="absent")


class Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_pickle_that_would_run_something_is_refused_and_does_not(tmp_path: Path, is_zip: bool):
    path = tmp_path / "model-l3.pt"
    state = {"encoder_linear.weight": Hostile(tmp_path / "was run")}
    torch.save(state, path, _use_new_zipfile_serialization=is_zip)
    with pytest.raises(
        CompileError, match=r"model-l3\.pt: cannot be read as a file of nothing but"
    ):
        compile_sae(tmp_path, path=str(path))
    assert not (tmp_path / "was run").exists()


@pytest.mark.parametrize(
    "content", [b"", b"PK", pickle.dumps({"a": 1}), b"\x80\x02}q\x00."], ids=repr
)
def test_what_is_no_state_dict_is_refused(tmp_path: Path, content: bytes):
    path = tmp_path / "a.pt"
    path.write_bytes(content)
    with pytest.raises(CompileError, match=r"a\.pt"):
        compile_sae(tmp_path, path=str(path))


def npz_of(array: np.ndarray) -> bytes:
    with io.BytesIO() as member, io.BytesIO() as archive:
        np.save(member, array, allow_pickle=True)
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr("w_enc.npy", member.getvalue())
        return archive.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"", b"PK\x05\x06", npz_of(np.array([Hostile(Path("/nowhere"))])),
        npz_of(np.zeros((4, 4)))[:90], npz_of(np.asfortranarray(np.ones((3, 4)))),
        npz_of(np.zeros(3)),
    ],
    ids=["empty", "no zip", "objects", "cut", "columns first", "no matrix"],
)  # fmt: skip
def test_an_npz_that_holds_no_rows_of_numbers_is_refused(tmp_path: Path, content: bytes):
    (tmp_path / "sae").mkdir()
    (tmp_path / "sae" / "params.npz").write_bytes(content)
    with pytest.raises(CompileError, match=r"params\.npz"):
        compile_sae(tmp_path, layer=3)


@pytest.mark.parametrize("flip", range(8, 600, 37))
def test_a_flipped_byte_of_a_header_never_ends_in_a_traceback(tmp_path: Path, flip: int):
    make_sae(tmp_path / "sae", "jumprelu", True)
    data = bytearray(weights_of(tmp_path).read_bytes())
    data[flip] ^= 0x15
    weights_of(tmp_path).write_bytes(data)
    with suppress(CompileError):  # some are in a name that is not read
        compile_sae(tmp_path)


def test_files_of_all_kinds_give_the_same_rows_and_columns(tmp_path: Path):
    matrix = np.random.default_rng(0).standard_normal((300, 50)).astype(np.float32)
    arrays = {"m": matrix, "v": matrix[0], "n": np.array(matrix[0, 0])}
    save_file(arrays, tmp_path / "a.safetensors")
    np.savez(tmp_path / "b.npz", **arrays)
    np.savez_compressed(tmp_path / "c.npz", **arrays)
    torch.save({name: torch.from_numpy(a) for name, a in arrays.items()}, tmp_path / "d.pt")
    for name in ("a.safetensors", "b.npz", "c.npz", "d.pt"):
        file = open_tensors(tmp_path / name)
        assert dict(file.shapes) == {"m": (300, 50), "v": (50,), "n": (1,)}, name
        np.testing.assert_array_equal(file.rows("m", [7, 0, 7]), matrix[[7, 0, 7]])
        np.testing.assert_array_equal(file.columns("m", [49, 3]), matrix[:, [49, 3]].T)
        np.testing.assert_array_equal(file.vector("v"), matrix[0])
        assert json.dumps(file.vector("n").tolist()) == json.dumps([float(matrix[0, 0])])


@pytest.mark.parametrize("name", ["a.safetensors", "b.npz", "c.npz", "d.pt", "e.pth"])
def test_whatever_is_damaged_is_read_or_refused(tmp_path: Path, name: str):
    arrays = {"W_enc": np.ones((12, 30), np.float32), "b_enc": np.ones(30, np.float32)}
    path = tmp_path / name
    if name == "a.safetensors":
        save_file(arrays, path)
    elif name.endswith(".npz"):
        (np.savez if name == "b.npz" else np.savez_compressed)(path, **arrays)
    else:
        tensors = {key: torch.from_numpy(array) for key, array in arrays.items()}
        torch.save(tensors, path, _use_new_zipfile_serialization=name == "d.pt")
    whole, rng = path.read_bytes(), np.random.default_rng(3)
    num_refused = 0
    for i in range(60):
        data = bytearray(whole)
        for at in rng.integers(0, len(data) if i % 2 else min(len(data), 300), 3):
            data[at] = rng.integers(256)
        path.write_bytes(data[: rng.integers(len(data))] if i % 7 == 0 else data)
        try:
            file = open_tensors(path)
            file.columns("W_enc", [3])
            file.rows("W_enc", [1])
            file.vector("b_enc")
        except CompileError:
            num_refused += 1
    assert num_refused > 10
