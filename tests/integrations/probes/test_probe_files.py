"""Probe files: every kind scores as torch computes it, and every fault is named with its place."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from probe_files import HOOK_POINT, compiled, random_probes, torch_scores, write_rules_of
from safetensors.numpy import save_file

from saeguard.integrations.probes import (
    Angle,
    Attention,
    Linear,
    Mlp,
    MultiMax,
    Probe,
    Subspace,
    read_probe_file,
    write_probe_file,
)
from saeguard.monitor import watchlist as wl
from saeguard.monitor.compile import compile_watchlist
from saeguard.monitor.errors import CompileError
from saeguard.monitor.live_heads import with_scores
from saeguard.rules import Phase, RequestContext, load_rules
from saeguard.rules.recordings.offline import RecordedRequest

D_MODEL, NUM_TOKENS = 24, 60
PROBES = random_probes(D_MODEL)


def recorded(watchlist: wl.Watchlist, x: np.ndarray, phases: np.ndarray) -> RecordedRequest:
    """What the taps say of these tokens, which follow a first one."""
    (site,) = watchlist.sites
    scores = wl.encode(x, site).astype(np.float32)
    positions = np.arange(1, len(x) + 1, dtype=np.int32)
    return RecordedRequest(RequestContext(), watchlist.columns, scores, positions, phases)


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((NUM_TOKENS, D_MODEL)).astype(np.float32)


@pytest.fixture(scope="module")
def phases() -> np.ndarray:
    lengths = {Phase.PROMPT: 20, Phase.REASONING: 15, Phase.ANSWER: 25}
    return np.repeat(list(lengths), list(lengths.values())).astype(np.uint8)


@pytest.mark.parametrize("name", PROBES)
def test_every_kind_scores_as_torch_does(tmp_path: Path, name: str, x, phases):
    watchlist = compiled(tmp_path, {name: PROBES[name]})
    scored = with_scores(recorded(watchlist, x, phases), watchlist.heads)
    assert scored.columns == (name,)
    expected = torch_scores(PROBES[name], x, phases)
    np.testing.assert_allclose(scored.scores[:, 0], expected, rtol=2e-5, atol=2e-5)


def test_probes_of_all_kinds_in_one_file_do_not_touch_each_other(tmp_path: Path, x, phases):
    watchlist = compiled(tmp_path, PROBES)
    scored = with_scores(recorded(watchlist, x, phases), watchlist.heads)
    assert sorted(scored.columns) == sorted(watchlist.features) == sorted(PROBES)
    for column, name in enumerate(scored.columns):
        expected = torch_scores(PROBES[name], x, phases)
        np.testing.assert_allclose(scored.scores[:, column], expected, rtol=2e-5, atol=2e-5)


def test_a_watchlist_with_heads_is_read_as_it_was_written(tmp_path: Path):
    watchlist = compiled(tmp_path, PROBES)
    wl.save(watchlist, tmp_path / "watch.safetensors")
    read = wl.load(tmp_path / "watch.safetensors")
    assert (read.heads, read.digest) == (watchlist.heads, watchlist.digest)
    assert read.identities == watchlist.identities


def test_a_head_that_was_changed_in_the_file_is_noticed(tmp_path: Path):
    watchlist = compiled(tmp_path, PROBES)
    heads = {**watchlist.heads, "relu": replace(watchlist.heads["relu"], bias=7.0)}
    wl.save(replace(watchlist, heads=heads), tmp_path / "watch.safetensors")
    with pytest.raises(wl.WatchlistError, match="was changed after it was made"):
        wl.load(tmp_path / "watch.safetensors")


def test_a_watchlist_that_lacks_a_row_of_a_head_is_refused(tmp_path: Path):
    watchlist = compiled(tmp_path, {"relu": PROBES["relu"]})
    heads = {"relu": replace(watchlist.heads["relu"], num_rows=7)}
    wl.save(wl.build(D_MODEL, watchlist.sites, heads), tmp_path / "watch.safetensors")
    with pytest.raises(wl.WatchlistError, match="lacks the columns relu/6"):
        wl.load(tmp_path / "watch.safetensors")


def test_what_a_head_is_shows_in_its_identity(tmp_path: Path):
    def identity(probe: Probe) -> str:
        watchlist = compiled(tmp_path, {"p": probe})
        return watchlist.identities[watchlist.columns.index("p")]

    tensors = dict(PROBES["relu"].tensors)
    others = [
        Probe(Mlp("silu"), tensors),
        Probe(Mlp("relu"), {**tensors, "weight": 2 * tensors["weight"]}),
        Probe(Mlp("relu"), {**tensors, "hidden_bias": tensors["hidden_bias"] + 1}),
        PROBES["line"],
    ]
    identities = {identity(probe) for probe in [PROBES["relu"], *others]}
    assert len(identities) == 1 + len(others)


def test_linear_probes_as_rows_of_one_matrix_stand_beside_others(tmp_path: Path):
    header = {"hook_name": HOOK_POINT, "names": ["old"], "probes": {"new": {"kind": "angle"}}}
    tensors = {
        "weight": np.ones((1, 4), np.float32), "bias": np.zeros(1, np.float32),
        "new.weight": np.eye(2, 4, dtype=np.float32),
    }  # fmt: skip
    path = tmp_path / "p.safetensors"
    save_file(tensors, path, metadata={"saeguard_probe": json.dumps(header)})
    file = read_probe_file(path)
    assert (file.probes["old"].kind, file.probes["new"].kind) == (Linear(), Angle())
    assert str(file.hook_point) == HOOK_POINT


def test_what_is_for_people_in_the_header_changes_nothing(tmp_path: Path):
    path = tmp_path / "p.safetensors"
    write_probe_file(path, HOOK_POINT, {"a": PROBES["line"]}, {"training": {"seed": 3}})
    assert list(read_probe_file(path).probes) == ["a"]


W = np.ones((2, 4), np.float32)
FAULTS = {
    "no tensor": (Probe(Linear(), {}), "lacks the tensor weight"),
    "two rows": (Probe(Linear(), {"weight": W}), "weight has 2 rows, and a linear probe is one"),
    "axes": (Probe(Linear(), {"weight": W[None]}), r"weight has the shape \[1, 2, 4\]"),
    "bias": (
        Probe(Linear(), {"weight": W[0], "bias": W[0]}), r"bias has the shape \[4\], not \[1\]",
    ),
    "not finite": (Probe(Linear(), {"weight": W[0] * np.nan}), "weight holds numbers that are not"),
    "unknown tensor": (
        Probe(Linear(), {"weight": W[0], "hidden_weight": W}), "has no tensor hidden_weight",
    ),
    "no hidden layer": (Probe(Mlp("relu"), {"weight": W[0]}), "lacks the tensor hidden_weight"),
    "hidden width": (
        Probe(Mlp("relu"), {"hidden_weight": W, "weight": W[0]}), "weight has 4 inputs, and not 2",
    ),
    "outputs": (
        Probe(Mlp("relu"), {"hidden_weight": W, "weight": np.eye(2)}), "one output is one row",
    ),
    "heads differ": (
        Probe(Attention(), {"query": W, "value": W[:1]}),
        r"query and value differ in shape: \[2, 4\] and \[1, 4\]",
    ),
    "too many": (Probe(MultiMax(), {"value": np.ones((1025, 4))}), "it has 1025 rows"),
    "no value": (Probe(MultiMax(), {"query": W}), "lacks the tensor value"),
    "no plane": (Probe(Angle(), {"weight": W[:1]}), "weight has 1 rows, and a plane has two"),
    "no basis": (Probe(Subspace(True), {"weight": W}), "no orthonormal basis.*orthonormalise"),
    "centred": (
        Probe(Subspace(True), {"weight": np.eye(2, 4), "bias": np.ones(2)}), "it has no bias",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FAULTS)
def test_faults_of_a_probe_are_named_with_the_file_and_the_probe(tmp_path: Path, case: str):
    probe, message = FAULTS[case]
    with pytest.raises(CompileError, match=message) as raised:
        compiled(tmp_path, {"wrong": probe})
    assert "probes.safetensors: probe 'wrong': " in str(raised.value)


HEADERS = {
    "kind": ({"probes": {"a": {"kind": "forest"}}}, r"(?s)forest.*\$\.probes"),
    "no kind": ({"probes": {"a": {}}}, "kind"),
    "key": ({"probes": {"a": {"kind": "mlp", "activation": "relu", "over": "x"}}}, "over"),
    "activation": ({"probes": {"a": {"kind": "mlp", "activation": "sin"}}}, "sin"),
    "span": ({"probes": {"a": {"kind": "attention", "over": "day"}}}, "day"),
    "place": ({"hook_point": "nowhere"}, "hook point 'nowhere' cannot be watched"),
    "rows": ({"names": ["a"]}, r"lacks the tensors weight \[probes, d_model\]"),
}


@pytest.mark.parametrize("case", HEADERS)
def test_faults_of_the_header_are_named_with_the_file(tmp_path: Path, case: str):
    header, message = HEADERS[case]
    path = tmp_path / "p.safetensors"
    text = json.dumps({"hook_point": HOOK_POINT, **header})
    save_file({"x": W}, path, metadata={"saeguard_probe": text})
    with pytest.raises(CompileError, match=message) as raised:
        read_probe_file(path)
    assert str(path) in str(raised.value)


def test_a_probe_that_the_file_does_not_have_is_told_with_those_it_has(tmp_path: Path):
    rules = write_rules_of(tmp_path, {"a": PROBES["line"], "b": PROBES["angle"]})
    write_probe_file(tmp_path / "probes.safetensors", HOOK_POINT, {"a": PROBES["line"]})
    with pytest.raises(CompileError, match=r"has no probe 'b' \(it has a\)"):
        compile_watchlist(load_rules([rules]))


@pytest.mark.parametrize("content", [b"", b"\x10\0\0\0\0\0\0\0not a header at", None])
def test_what_is_no_probe_file_is_refused(tmp_path: Path, content: bytes | None):
    path = tmp_path / "p.safetensors"
    if content is None:
        save_file({"weight": W}, path)
    else:
        path.write_bytes(content)
    with pytest.raises(CompileError, match="not a probe file"):
        read_probe_file(path)


def test_tensors_of_16_bits_that_numpy_has_not_are_refused_with_advice(tmp_path: Path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file as save_torch

    path = tmp_path / "p.safetensors"
    header = {"hook_point": HOOK_POINT, "probes": {"a": {"kind": "linear"}}}
    tensors = {"a.weight": torch.ones(4, dtype=torch.bfloat16)}
    save_torch(tensors, path, metadata={"saeguard_probe": json.dumps(header)})
    with pytest.raises(CompileError, match="float32"):
        read_probe_file(path)
