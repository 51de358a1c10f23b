"""Changes of weights, read block by block, are what whole matrices say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from saeguard.integrations.drift.checkpoints import open_adapter, open_checkpoint
from saeguard.integrations.drift.weights import Directions, WeightChange, compare_weights
from saeguard.integrations.drift.writers import writers_of, writes_before
from saeguard.monitor.errors import ConfigError, SaeguardError, UnsupportedError
from saeguard.monitor.sites import HookPoint

D_MODEL, D_MLP, VOCAB, NUM_LAYERS = 24, 40, 50, 3


def make_model(directory: Path, seed: int = 0, **config: object) -> Path:
    """Matrices of a model as Llama and Qwen call them."""
    rng = np.random.default_rng(seed)
    shapes = {"model.embed_tokens.weight": (VOCAB, D_MODEL), "lm_head.weight": (VOCAB, D_MODEL)}
    for i in range(NUM_LAYERS):
        layer = f"model.layers.{i}"
        shapes |= {
            f"{layer}.self_attn.q_proj.weight": (D_MODEL, D_MODEL),
            f"{layer}.self_attn.o_proj.weight": (D_MODEL, D_MODEL),
            f"{layer}.mlp.up_proj.weight": (D_MLP, D_MODEL),
            f"{layer}.mlp.down_proj.weight": (D_MODEL, D_MLP),
            f"{layer}.input_layernorm.weight": (D_MODEL,),
        }
    tensors = {name: rng.normal(0, 1, shape).astype(np.float32) for name, shape in shapes.items()}
    write(directory, tensors, **config)
    return directory


def write(directory: Path, tensors: dict[str, np.ndarray], **config: object) -> None:
    directory.mkdir(exist_ok=True)
    save_file(tensors, directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps({"model_type": "qwen3", **config}))


def tensors_of(directory: Path) -> dict[str, np.ndarray]:
    return load_file(directory / "model.safetensors")


def directions(hook_point: str = "blocks.1.hook_resid_post", number: int = 3) -> Directions:
    rows = np.random.default_rng(9).normal(0, 1, (number + 5, D_MODEL))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    names = tuple(f"f{i}" for i in range(number))
    return Directions(HookPoint.parse(hook_point), names, rows[:number], rows[number:])


def compared(before: Path, after: Path, *sites: Directions) -> WeightChange:
    return compare_weights(open_checkpoint(before), open_checkpoint(after), sites or [directions()])


WRITTEN_BEFORE = {
    "blocks.1.hook_resid_pre": ["embed", "0.self_attn", "0.mlp"],
    "blocks.1.hook_resid_mid": ["embed", "0.self_attn", "0.mlp", "1.self_attn"],
    "blocks.1.hook_resid_post": ["embed", "0.self_attn", "0.mlp", "1.self_attn", "1.mlp"],
    "blocks.1.hook_attn_out": ["1.self_attn"],
    "blocks.1.hook_mlp_out": ["1.mlp"],
    "blocks.1.mlp.hook_in": [],
}


@pytest.mark.parametrize("hook_point", WRITTEN_BEFORE)
def test_what_is_read_at_a_hook_point_is_the_sum_of_what_was_written_before(
    tmp_path: Path, hook_point: str
):
    writers = writers_of(open_checkpoint(make_model(tmp_path / "a")))
    found = {w.name for w in writers if writes_before(w, HookPoint.parse(hook_point))}
    wanted = WRITTEN_BEFORE[hook_point]
    assert len(found) == len(wanted)
    assert all(any(part in name for name in found) for part in wanted)


def test_energies_are_those_of_the_differences_of_whole_matrices(tmp_path: Path):
    before, after = make_model(tmp_path / "a"), make_model(tmp_path / "b", seed=1)
    site = directions()
    (found,) = compared(before, after, site).sites
    old, new = tensors_of(before), tensors_of(after)
    energies, total, old_total = np.zeros(3), 0.0, 0.0
    for layer in (0, 1):
        for part in ("self_attn.o_proj", "mlp.down_proj"):
            name = f"model.layers.{layer}.{part}.weight"
            change = new[name] - old[name]
            energies += ((site.watched @ change) ** 2).sum(axis=1)
            total, old_total = total + (change**2).sum(), old_total + (old[name] ** 2).sum()
    name = "model.embed_tokens.weight"
    change = new[name] - old[name]
    energies += ((site.watched @ change.T) ** 2).sum(axis=1)
    total, old_total = total + (change**2).sum(), old_total + (old[name] ** 2).sum()
    by_name = {concept.feature: concept for concept in found.concepts}
    for i, energy in enumerate(energies):
        assert by_name[f"f{i}"].share == pytest.approx(energy / total, rel=1e-4)
        times = np.sqrt(energy * D_MODEL / total)
        assert by_name[f"f{i}"].times_random == pytest.approx(times, rel=1e-4)
    assert found.relative == pytest.approx(np.sqrt(total / old_total), rel=1e-4)
    assert found.num_tensors == 5


def test_shards_with_an_index_say_what_one_file_says(tmp_path: Path):
    before, after = make_model(tmp_path / "a"), make_model(tmp_path / "b", seed=1)
    sharded = tmp_path / "sharded"
    sharded.mkdir()
    tensors = tensors_of(after)
    names = sorted(tensors)
    index = {}
    for i, part in enumerate((names[::2], names[1::2])):
        save_file({name: tensors[name] for name in part}, sharded / f"part-{i}.safetensors")
        index |= dict.fromkeys(part, f"part-{i}.safetensors")
    save_file({"other": np.zeros(3, np.float32)}, sharded / "not-in-the-index.safetensors")
    (sharded / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    (sharded / "config.json").write_text('{"model_type": "qwen3"}')
    assert compared(before, sharded) == compared(before, after)


def test_an_adapter_says_what_the_model_it_is_merged_into_says(tmp_path: Path):
    before = make_model(tmp_path / "a")
    rng, tensors, merged = np.random.default_rng(3), {}, tensors_of(before)
    for name in ("model.layers.1.mlp.down_proj", "model.layers.0.self_attn.q_proj"):
        outputs, inputs = merged[f"{name}.weight"].shape
        a = rng.normal(0, 1, (4, inputs)).astype(np.float32)
        b = rng.normal(0, 1, (outputs, 4)).astype(np.float32)
        tensors[f"base_model.model.{name}.lora_A.weight"] = a
        tensors[f"base_model.model.{name}.lora_B.weight"] = b
        merged[f"{name}.weight"] = merged[f"{name}.weight"] + 8 / 4 * (b @ a)
    write(tmp_path / "merged", merged)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    save_file(tensors, adapter / "adapter_model.safetensors")
    settings = {"r": 4, "lora_alpha": 8}
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    by_adapter = compare_weights(open_checkpoint(before), open_adapter(adapter), [directions()])
    by_model = compared(before, tmp_path / "merged")
    assert by_adapter.num_other_tensors == by_model.num_other_tensors == 1
    for one, other in zip(by_adapter.sites[0].concepts, by_model.sites[0].concepts, strict=True):
        assert one.feature == other.feature
        assert one.times_random == pytest.approx(other.times_random, rel=1e-3)
        assert one.above_random == pytest.approx(other.above_random, abs=0.003)
        assert one.relative == pytest.approx(other.relative, rel=1e-3)
    for wrong in ({"use_dora": True}, {"modules_to_save": ["lm_head"]}, {"r": None}):
        (adapter / "adapter_config.json").write_text(json.dumps({**settings, **wrong}))
        with pytest.raises(ConfigError):
            open_adapter(adapter)


def test_a_matrix_that_gpt2_stores_by_its_inputs_is_read_so(tmp_path: Path):
    rng = np.random.default_rng(0)
    tensors = {"wte.weight": rng.normal(0, 1, (VOCAB, D_MODEL)).astype(np.float32)}
    for part, inputs in (("attn", D_MODEL), ("mlp", D_MLP)):
        tensors[f"h.0.{part}.c_proj.weight"] = np.zeros((inputs, D_MODEL), np.float32)
        tensors[f"h.0.{part}.c_proj.bias"] = np.zeros(D_MODEL, np.float32)
    write(tmp_path / "a", tensors, model_type="gpt2")
    site = directions("blocks.0.hook_resid_post")
    pushed = {**tensors, "h.0.attn.c_proj.weight": np.zeros((D_MODEL, D_MODEL), np.float32)}
    pushed["h.0.attn.c_proj.weight"][5] = site.watched[1]  # the fifth input writes along f1
    write(tmp_path / "b", pushed, model_type="gpt2")
    (found,) = compared(tmp_path / "a", tmp_path / "b", site).sites
    assert found.concepts[0].feature == "f1"
    assert found.concepts[0].share == pytest.approx(1.0, rel=1e-5)


def test_rows_that_were_added_to_the_vocabulary_are_left_out(tmp_path: Path):
    before = make_model(tmp_path / "a")
    tensors = tensors_of(before)
    more = np.ones((4, D_MODEL), np.float32)
    name = "model.embed_tokens.weight"
    write(tmp_path / "b", {**tensors, name: np.concatenate([tensors[name], more])})
    assert compared(before, tmp_path / "b").sites[0].relative == 0.0


def test_a_hook_point_that_is_no_sum_of_writes_is_skipped_by_name(tmp_path: Path):
    before = make_model(tmp_path / "a")
    found = compared(before, before, directions("blocks.1.mlp.hook_in"))
    assert found.sites == ()
    assert list(found.skipped) == ["blocks.1.mlp.hook_in"]


def break_model(directory: Path, way: str) -> None:
    tensors = tensors_of(directory)
    match way:
        case "quantised":
            write(directory, tensors, quantization_config={"quant_method": "fp8"})
        case "normed":
            name = "model.layers.0.post_feedforward_layernorm.weight"
            write(directory, {**tensors, name: np.ones(D_MODEL, np.float32)})
        case "unknown":
            renamed = {k.replace("1.mlp.down_proj", "1.mlp.shrink"): v for k, v in tensors.items()}
            write(directory, renamed)
        case "together":
            name = "model.layers.0.mlp.experts.down_proj"
            write(directory, {**tensors, name: np.ones((2, 3, D_MODEL), np.float32)})
        case "empty":
            (directory / "model.safetensors").unlink()
        case "cut short":
            data = (directory / "model.safetensors").read_bytes()
            (directory / "model.safetensors").write_bytes(data[: len(data) // 2])
        case "no config":
            (directory / "config.json").unlink()


@pytest.mark.parametrize(
    ("way", "message"),
    [
        ("quantised", "stored quantised .fp8"),
        ("normed", "normed first"),
        ("unknown", "not known what writes the output of its mlp in layer 1"),
        ("together", "experts together"),
        ("empty", "holds no"),
        ("cut short", "does not fit|not a .safetensors"),
        ("no config", "config.json: cannot be read"),
    ],
)
def test_a_checkpoint_that_cannot_be_compared_is_refused_by_name(
    tmp_path: Path, way: str, message: str
):
    directory = make_model(tmp_path / "a")
    break_model(directory, way)
    with pytest.raises(SaeguardError, match=message):
        writers_of(open_checkpoint(directory))


def test_two_checkpoints_that_are_not_of_one_model_are_refused(tmp_path: Path):
    before, other = make_model(tmp_path / "a"), make_model(tmp_path / "b")
    tensors = tensors_of(other)
    name = "model.layers.0.mlp.down_proj.weight"
    write(other, {**tensors, name: np.zeros((D_MODEL, 8), np.float32)})
    with pytest.raises(ConfigError, match="is of shape"):
        compared(before, other)
    del tensors[name]
    write(other, tensors)
    with pytest.raises(ConfigError, match=r"has no model\.layers\.0\.mlp\.down_proj"):
        compared(before, other)
    wide = Directions(HookPoint(1), ("f",), np.eye(1, 7), np.zeros((0, 7)))
    with pytest.raises(ConfigError, match="rows of 7 numbers"):
        compared(before, before, wide)
    with pytest.raises(UnsupportedError):
        writers_of(open_checkpoint_without_layers(tmp_path / "c"))


def open_checkpoint_without_layers(directory: Path):
    write(directory, {"x": np.zeros(3, np.float32)})
    return open_checkpoint(directory)
