"""Every layout of files gives the activations of whoever defined it.

References are sae-lens' own loaders, which are handed local files, and where those are known to
differ from a library's definition, that definition in plain torch.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from saes import make_sae, write_rules
from safetensors.torch import save_file
from torch.nn.functional import relu

from saeguard.monitor import watchlist as wl
from saeguard.monitor.compile import compile_watchlist
from saeguard.monitor.errors import CompileError
from saeguard.rules import load_rules

sae_lens = pytest.importorskip("sae_lens")
loaders = pytest.importorskip("sae_lens.loading.pretrained_sae_loaders")

D_MODEL, D_SAE, K = 20, 64, 6
WATCHED = [0, 7, 31, 63]
X = 2 * torch.randn(1024, D_MODEL, generator=torch.Generator().manual_seed(2)) + 0.2

Encode = Callable[[torch.Tensor], torch.Tensor]


def random_tensors(**shapes: tuple[int, ...]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return {
        name.replace("__", "."): torch.randn(shape, generator=generator)
        for name, shape in shapes.items()
    }


def from_sae_lens(
    monkeypatch: pytest.MonkeyPatch,
    loader: Callable[..., Any],
    repository: str,
    folder: str,
    local: Path,
    factor: float | None = None,
    **overrides: object,
) -> Encode:
    """What sae-lens makes of the same files, as `SAE.from_pretrained` would."""

    def local_file(repo_id: str, filename: str, subfolder: str | None = None, **_: object) -> str:
        name = "/".join(filter(None, [subfolder, filename])).removeprefix(folder).lstrip("/")
        path = local / name if name else local
        if not path.is_file():
            raise loaders.EntryNotFoundError(filename)
        return str(path)

    monkeypatch.setattr(loaders, "hf_hub_download", local_file)
    config, state, _ = loader(
        repository, folder, device="cpu", cfg_overrides={"dtype": "float32", **overrides}
    )
    config = loaders.handle_config_defaulting(config)
    config_class = sae_lens.SAE.get_sae_config_class_for_architecture(config["architecture"])
    config = config_class.from_dict(config)
    sae = sae_lens.SAE.get_sae_class_for_architecture(config.architecture())(config)
    sae.load_state_dict({name: tensor.float().contiguous() for name, tensor in state.items()})
    if factor is not None:
        sae.fold_activation_norm_scaling_factor(factor)
    return sae.encode


def assert_same(
    tmp_path: Path, encode: Encode, *, exact: bool = True, units: str = "raw", **sae: object
) -> wl.Site:
    """The rows of the SAE that the rules name; of TopK where a feature is among the k."""
    rules = load_rules([write_rules(tmp_path, WATCHED, sae, units=units)])
    (site,) = compile_watchlist(rules).sites
    got = wl.encode(X.numpy(), site)
    with torch.no_grad():
        expected = encode(X)
    expected = expected.to_dense() if expected.is_sparse else expected
    expected = expected[:, [f.index for f in site.features]].numpy()
    kept = np.full(expected.shape, True) if exact else expected > 0
    np.testing.assert_allclose(got[kept], expected[kept], rtol=1e-4, atol=1e-4)
    assert (expected > 0).any(axis=0).all()
    assert [feature.exact for feature in site.features] == [exact] * len(site.features)
    if exact:
        assert ((got > 0) == (expected > 0)).all()
    return site


def write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


GEMMA = {
    "w_enc": (D_MODEL, D_SAE), "w_dec": (D_SAE, D_MODEL), "b_enc": (D_SAE,), "b_dec": (D_MODEL,),
    "threshold": (D_SAE,),
}  # fmt: skip


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_gemma_scope(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save: Callable[..., None]):
    folder = tmp_path / "gemma-scope-2b-pt-res" / "layer_20" / "width_16k" / "average_l0_71"
    folder.mkdir(parents=True)
    save(folder / "params.npz", **{k: t.numpy() for k, t in random_tensors(**GEMMA).items()})
    encode = from_sae_lens(
        monkeypatch, loaders.gemma_2_sae_huggingface_loader, "google/gemma-scope-2b-pt-res",
        "layer_20/width_16k/average_l0_71", folder, d_in=D_MODEL, d_sae=D_SAE,
    )  # fmt: skip
    site = assert_same(tmp_path, encode, path=str(folder))
    assert site.hook_point.layer == 20


@pytest.mark.parametrize("with_config", [True, False])
def test_gemma_scope_2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_config: bool):
    name = "resid_post/layer_12_width_16k_l0_medium"
    folder = tmp_path / name
    folder.mkdir(parents=True)
    save_file(random_tensors(**GEMMA), folder / "params.safetensors")
    if with_config:
        config = {
            "architecture": "jump_relu", "model_name": "gemma-v3-1b-pt",
            "hf_hook_point_in": "model.layers.12.output",
        }  # fmt: skip
        write_json(folder / "config.json", config)
    monkeypatch.setattr(
        loaders, "get_safetensors_tensor_shapes",
        lambda *_: {key: list(shape) for key, shape in GEMMA.items()},
    )  # fmt: skip
    encode = from_sae_lens(
        monkeypatch, loaders.gemma_3_sae_huggingface_loader, "google/gemma-scope-2-1b-pt", name,
        folder,
    )  # fmt: skip
    assert assert_same(tmp_path, encode, path=str(folder)).hook_point.layer == 12


LINEAR = {
    "encoder__weight": (D_SAE, D_MODEL), "encoder__bias": (D_SAE,),
    "decoder__weight": (D_MODEL, D_SAE), "decoder__bias": (D_MODEL,),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_llama_scope(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype):
    folder = tmp_path / "Llama3_1-8B-Base-L15R-8x"
    config = {
        "d_model": D_MODEL, "d_sae": D_SAE, "act_fn": "jumprelu", "jump_relu_threshold": 0.53,
        "norm_activation": "dataset-wise", "dataset_average_activation_norm": {"in": 2.5},
        "hook_point_in": "blocks.15.hook_resid_post", "apply_decoder_bias_to_pre_encoder": False,
    }  # fmt: skip
    write_json(folder / "hyperparams.json", config)
    (folder / "checkpoints").mkdir()
    tensors = {name: tensor.to(dtype) for name, tensor in random_tensors(**LINEAR).items()}
    save_file(tensors, folder / "checkpoints" / "final.safetensors")
    encode = from_sae_lens(
        monkeypatch, loaders.llama_scope_sae_huggingface_loader, "fnlp/Llama3_1-8B-Base-LXR-8x",
        folder.name, folder, factor=D_MODEL**0.5 / 2.5,
    )  # fmt: skip
    assert assert_same(tmp_path, encode, path=str(folder)).hook_point.layer == 15


def test_llama_scope_r1_with_the_factor_from_the_rules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path / "L7R"
    config = {
        "d_model": D_MODEL, "expansion_factor": D_SAE / D_MODEL, "act_fn": "jumprelu",
        "hook_point_in": "blocks.7.hook_resid_post",
    }  # fmt: skip
    write_json(folder / "config.json", config)
    tensors = random_tensors(**LINEAR, log_jumprelu_threshold=(D_SAE,))
    save_file(tensors, folder / "sae_weights.safetensors")
    encode = from_sae_lens(
        monkeypatch, loaders.llama_scope_r1_distill_sae_huggingface_loader,
        "fnlp/Llama-Scope-R1-Distill", "L7R", folder, factor=1.3, d_sae=D_SAE,
    )  # fmt: skip
    site = assert_same(tmp_path, encode, path=str(folder), norm_scaling_factor=1.3)
    assert site.hook_point.layer == 7


@pytest.mark.parametrize("as_file", [True, False])
def test_qwen_scope(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_file: bool):
    folder = tmp_path / f"SAE-Res-Qwen3-1.7B-Base-W32K-L0_{K}"
    folder.mkdir()
    shapes = {
        "W_enc": (D_SAE, D_MODEL), "W_dec": (D_MODEL, D_SAE), "b_enc": (D_SAE,),
        "b_dec": (D_MODEL,),
    }  # fmt: skip
    torch.save(random_tensors(**shapes), folder / "layer9.sae.pt")
    encode = from_sae_lens(
        monkeypatch, loaders.qwen_scope_sae_huggingface_loader, f"Qwen/{folder.name}",
        "layer9.sae.pt", folder / "layer9.sae.pt", d_in=D_MODEL, d_sae=D_SAE,
    )  # fmt: skip
    path = folder / "layer9.sae.pt" if as_file else folder
    site = assert_same(tmp_path, encode, exact=False, path=str(path), layer=9)
    assert f"the {K} largest" in site.features[0].inexact_reason


@pytest.mark.parametrize("is_zip", [True, False])
def test_goodfire(tmp_path: Path, is_zip: bool):
    path = tmp_path / "Llama-3.1-8B-Instruct-SAE-l19.pth"
    shapes = {name.replace("r__", "r_linear__"): shape for name, shape in LINEAR.items()}
    tensors = random_tensors(**shapes)
    torch.save(tensors, path, _use_new_zipfile_serialization=is_zip)

    def encode(x: torch.Tensor) -> torch.Tensor:  # sae-lens knows two sizes alone
        return relu(x @ tensors["encoder_linear.weight"].T + tensors["encoder_linear.bias"])

    assert assert_same(tmp_path, encode, path=str(path)).hook_point.layer == 19


@pytest.mark.parametrize("normalize_decoder", [True, False])
def test_sparsify_subtracts_its_bias_whatever_becomes_of_its_decoder(
    tmp_path: Path, normalize_decoder: bool
):
    tensors = write_sparsify(tmp_path / "layers.5", normalize_decoder=normalize_decoder)

    def encode(x: torch.Tensor) -> torch.Tensor:
        p = (x - tensors["b_dec"]) @ tensors["encoder.weight"].T + tensors["encoder.bias"]
        return top_k(relu(p))

    assert assert_same(tmp_path, encode, exact=False, path="layers.5").hook_point.layer == 5


@pytest.mark.parametrize(
    ("folder", "config", "reason"),
    [
        ("layers.5", {"transcode": True}, "hook point 'layers.5' cannot be watched"),
        ("embed_tokens", {}, "'hook_embed' cannot be watched"),
        ("layers.5", {"activation": "groupmax"}, "the largest of each group"),
        ("layers.5", {"signed": True}, "negative ones too"),
    ],
)
def test_what_sparsify_reads_elsewhere_or_chooses_otherwise_is_refused_by_name(
    tmp_path: Path, folder: str, config: dict[str, Any], reason: str
):
    write_sparsify(tmp_path / folder, **config)
    with pytest.raises(CompileError, match=reason):
        compile_watchlist(load_rules([write_rules(tmp_path, WATCHED, {"path": folder})]))


def write_sparsify(folder: Path, **config: object) -> dict[str, torch.Tensor]:
    shapes = {
        "encoder__weight": (D_SAE, D_MODEL), "encoder__bias": (D_SAE,), "W_dec": (D_SAE, D_MODEL),
        "b_dec": (D_MODEL,),
    }  # fmt: skip
    tensors = random_tensors(**shapes)
    size = {"d_in": D_MODEL, "num_latents": D_SAE, "k": K, "activation": "topk"}
    write_json(folder / "cfg.json", {**size, **config})
    save_file(tensors, folder / "sae.safetensors")
    return tensors


def top_k(values: torch.Tensor) -> torch.Tensor:
    kept = values.topk(K, dim=-1)
    return torch.zeros_like(values).scatter(-1, kept.indices, kept.values)


DICTIONARIES = {
    "AutoEncoder": {**LINEAR, "bias": (D_MODEL,)},
    "AutoEncoderNew": LINEAR,
    "GatedAutoEncoder": {
        "encoder__weight": (D_SAE, D_MODEL), "decoder__weight": (D_MODEL, D_SAE),
        "decoder_bias": (D_MODEL,), "r_mag": (D_SAE,), "gate_bias": (D_SAE,), "mag_bias": (D_SAE,),
    },
    "JumpReluAutoEncoder": {
        "W_enc": (D_MODEL, D_SAE), "W_dec": (D_SAE, D_MODEL), "b_enc": (D_SAE,),
        "b_dec": (D_MODEL,), "threshold": (D_SAE,),
    },
    "AutoEncoderTopK": {**LINEAR, "b_dec": (D_MODEL,)},
    "BatchTopKSAE": {**LINEAR, "b_dec": (D_MODEL,)},
    "MatryoshkaBatchTopKSAE": {
        "W_enc": (D_MODEL, D_SAE), "W_dec": (D_SAE, D_MODEL), "b_enc": (D_SAE,),
        "b_dec": (D_MODEL,),
    },
}  # fmt: skip


def dictionary_encode(kind: str, t: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """By the definitions of dictionary_learning's classes, without the decoder's norm, by which
    two of them multiply (it is in `units: neuronpedia`).
    """
    if kind == "AutoEncoder":
        return relu((x - t["bias"]) @ t["encoder.weight"].T + t["encoder.bias"])
    if kind == "AutoEncoderNew":
        return relu(x @ t["encoder.weight"].T + t["encoder.bias"])
    if kind == "GatedAutoEncoder":
        q = (x - t["decoder_bias"]) @ t["encoder.weight"].T
        return (q + t["gate_bias"] > 0) * relu(t["r_mag"].exp() * q + t["mag_bias"])
    if kind == "JumpReluAutoEncoder":
        p = x @ t["W_enc"] + t["b_enc"]
        return relu(p * (p > t["threshold"]))
    if kind == "MatryoshkaBatchTopKSAE":
        p = relu((x - t["b_dec"]) @ t["W_enc"] + t["b_enc"])
    else:
        p = relu((x - t["b_dec"]) @ t["encoder.weight"].T + t["encoder.bias"])
    return p * (p > t["threshold"])


@pytest.mark.parametrize("kind", DICTIONARIES)
def test_dictionary_learning(tmp_path: Path, kind: str):
    tensors = random_tensors(**DICTIONARIES[kind])
    if "TopK" in kind:
        tensors["threshold"] = torch.tensor(1.4)
    folder = tmp_path / "trainer_0"
    trainer = {
        "dict_class": kind, "layer": 4, "activation_dim": D_MODEL, "dict_size": D_SAE, "k": K,
        "lm_name": "x/y", "submodule_name": "resid_post_layer_4",
    }  # fmt: skip
    write_json(folder / "config.json", {"trainer": trainer, "buffer": {"ctx_len": 128}})
    torch.save(tensors, folder / "ae.pt")
    is_topk = kind == "AutoEncoderTopK"
    rules = load_rules([write_rules(tmp_path, WATCHED, {"path": str(folder)})])
    (site,) = compile_watchlist(rules).sites
    expected = dictionary_encode(kind, tensors, X)[:, [f.index for f in site.features]].numpy()
    got = wl.encode(X.numpy(), site)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)
    assert (expected > 0).any(axis=0).all()
    assert site.hook_point.layer == 4
    assert [feature.exact for feature in site.features] == [not is_topk] * len(WATCHED)


def test_a_configuration_of_before_6_0_is_read_as_sae_lens_reads_it(tmp_path: Path):
    make_sae(tmp_path / "sae", "standard", True)
    config = {
        "d_in": 24, "d_sae": 96, "dtype": "float32", "device": "cpu", "activation_fn_str": "relu",
        "hook_point": "blocks.4.hook_resid_pre", "hook_point_layer": 4, "model_name": "gpt2-small",
        "normalize_activations": False,
    }  # fmt: skip
    write_json(tmp_path / "sae" / "cfg.json", config)
    sae = sae_lens.SAE.load_from_disk(str(tmp_path / "sae"))
    assert sae.cfg.apply_b_dec_to_input
    rules = load_rules([write_rules(tmp_path, WATCHED)])
    (site,) = compile_watchlist(rules).sites
    x = torch.randn(256, 24)
    with torch.no_grad():
        expected = sae.encode(x)[:, [f.index for f in site.features]].numpy()
    np.testing.assert_allclose(wl.encode(x.numpy(), site), expected, rtol=1e-4, atol=1e-4)
    assert str(site.hook_point) == "blocks.4.hook_resid_pre"
