"""Random tiny models, SAEs and watchlists: everything real but the training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from saeguard.monitor import watchlist as wl
from saeguard.monitor.sites import HookPoint

D_MODEL = 64
NUM_LAYERS = 3
VOCAB = 256

_COMMON = {
    "vocab_size": VOCAB,
    "hidden_size": D_MODEL,
    "intermediate_size": 128,
    "num_hidden_layers": NUM_LAYERS,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
    "tie_word_embeddings": False,
}


def make_model(directory: Path, model_type: str = "qwen3", **overrides: object) -> Path:
    """A random fp32 model of the given Hugging Face type, with a tokenizer; returns its
    directory.
    """
    torch.manual_seed(7)
    config = AutoConfig.for_model(model_type, **{**_COMMON, **overrides})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():  # large enough that layers differ and attention is not flat
        for name, parameter in model.named_parameters():
            if "moe_statics" in name:
                parameter.zero_()  # vLLM's CPU build leaves this bias out
            elif parameter.ndim >= 2:
                parameter.normal_(0.0, 0.1)
            elif "norm" in name:
                parameter.normal_(1.0, 0.1)
        for name, buffer in model.named_buffers():
            if "correction_bias" in name or "expert_bias" in name:
                buffer.normal_(0.0, 0.1)
    model.save_pretrained(directory)
    _tokenizer(config.vocab_size).save_pretrained(directory)
    return directory


def _tokenizer(vocab_size: int) -> PreTrainedTokenizerFast:
    special = {"<s>": 0, "</s>": 1, "<pad>": 2, "<unk>": 3}
    vocab = special | {f"w{i}": i for i in range(len(special), vocab_size)}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def make_adapter(directory: Path, model: Path, seed: int) -> tuple[Path, Path]:
    """A random LoRA adapter of that model's attention and MLP; its directory, and that of the
    model with the adapter's weights added to its own.
    """
    rank, rng = 4, torch.Generator().manual_seed(seed)
    merged = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    targets = ("q_proj", "v_proj", "o_proj", "gate_proj", "down_proj")
    tensors = {}
    for name, module in merged.named_modules():
        if name.rpartition(".")[2] in targets:
            a = torch.randn(rank, module.in_features, generator=rng) / 8
            b = torch.randn(module.out_features, rank, generator=rng) / 8
            tensors[f"base_model.model.{name}.lora_A.weight"] = a
            tensors[f"base_model.model.{name}.lora_B.weight"] = b
            module.weight.data += 2.0 * (b @ a)
    directory.mkdir(parents=True)
    config = {"r": rank, "lora_alpha": 2 * rank, "target_modules": targets, "peft_type": "LORA"}
    (directory / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors, directory / "adapter_model.safetensors")
    merged.save_pretrained(directory / "merged")
    return directory, directory / "merged"


@dataclass(frozen=True)
class Models:
    """A model, adapters of it by name, and the model with each of them merged into it."""

    base: Path
    adapters: dict[str, Path]
    merged: dict[str, Path]


def make_models(directory: Path, adapters: tuple[str, ...] = ("red", "blue")) -> Models:
    base = make_model(directory / "base")
    made = {name: make_adapter(directory / name, base, i) for i, name in enumerate(adapters)}
    return Models(
        base, {name: own for name, (own, _) in made.items()},
        {name: merged for name, (_, merged) in made.items()},
    )  # fmt: skip


def make_watchlist(
    places: Sequence[int | HookPoint], num_features: int = 5, d_model: int = D_MODEL
) -> wl.Watchlist:
    """Random rows after each layer, or at another place: JumpReLU gates of several heights and,
    last, an ungated probe.
    """
    sites = []
    for place in places:
        hook_point = HookPoint(place) if isinstance(place, int) else place
        layer, kind = hook_point.layer, hook_point.kind
        prefix = f"l{layer}" if kind == "resid_post" else f"l{layer}_{kind}"
        rng = np.random.default_rng(layer if isinstance(place, int) else [layer, *kind.encode()])
        names = [f"{prefix}_f{i}" for i in range(num_features)]
        threshold = rng.uniform(0.0, 1.0, num_features)
        threshold[-1] = -np.inf
        site = wl.Site(
            hook_point=hook_point,
            features=tuple(
                wl.WatchedFeature(n, "sae", "random", "0" * 64, i) for i, n in enumerate(names)
            ),
            weight=rng.standard_normal((num_features, d_model)).astype(np.float32) / 4,
            bias=rng.standard_normal(num_features).astype(np.float32),
            threshold=threshold.astype(np.float32),
            golden_inputs=rng.standard_normal((8, d_model)).astype(np.float32),
            golden_scores=np.empty((0, num_features), np.float32),
        )
        golden = wl.encode(site.golden_inputs, site).astype(np.float32)
        sites.append(replace(site, golden_scores=golden))
    return wl.build(d_model, sites)


@lru_cache(maxsize=4)
def _load(directory: str) -> AutoModelForCausalLM:
    return AutoModelForCausalLM.from_pretrained(
        directory,
        dtype=torch.float32,
        attn_implementation="eager",  # the others leave out Gemma 2's soft cap
    ).eval()


def hidden_states(directory: Path, token_ids: list[int]) -> list[np.ndarray]:
    """Residual stream after each layer by Hugging Face, [tokens, d_model] fp32 each."""
    model = _load(str(directory))
    seen: list[np.ndarray] = []
    parts = model.base_model.children()
    layers = next(part for part in parts if isinstance(part, torch.nn.ModuleList))
    hooks = [
        layer.register_forward_hook(
            lambda _, __, out: seen.append((out[0] if isinstance(out, tuple) else out).detach())
        )
        for layer in layers
    ]
    with torch.no_grad():
        model(torch.tensor([token_ids]), use_cache=False)
    for hook in hooks:
        hook.remove()
    return [stream.reshape(-1, stream.shape[-1]).numpy() for stream in seen]


# Kind of a hook point -> where it is in a layer of Hugging Face's, and whether it is read before or
# behind that module.
_LLAMA = {
    "resid_pre": ("", "before"),
    "attn_z": ("self_attn.o_proj", "before"),
    "attn_out": ("self_attn", "behind"),
    "resid_mid": ("post_attention_layernorm", "before"),
    "mlp_in": ("post_attention_layernorm", "behind"),
    "mlp_out": ("mlp", "behind"),
}
_GEMMA = {
    **_LLAMA,
    "attn_out": ("post_attention_layernorm", "behind"),
    "resid_mid": ("pre_feedforward_layernorm", "before"),
    "mlp_in": ("pre_feedforward_layernorm", "behind"),
    "mlp_out": ("post_feedforward_layernorm", "behind"),
}
_GPT2 = {
    "resid_pre": ("", "before"),
    "attn_z": ("attn.c_proj", "before"),
    "attn_out": ("attn", "behind"),
    "resid_mid": ("ln_2", "before"),
    "mlp_in": ("ln_2", "behind"),
    "mlp_out": ("mlp", "behind"),
}
_PLACES = {"gemma2": _GEMMA, "gemma3_text": _GEMMA, "gpt2": _GPT2}


def inputs_at(directory: Path, token_ids: list[int], hook_point: HookPoint) -> np.ndarray:
    """What Hugging Face's model has there, [tokens, inputs] fp32."""
    model = _load(str(directory))
    path, side = _PLACES.get(model.config.model_type, _LLAMA)[hook_point.kind]
    parts = model.base_model.children()
    layers = next(part for part in parts if isinstance(part, torch.nn.ModuleList))
    layer = layers[hook_point.layer]
    seen: list[torch.Tensor] = []

    def keep(_module: object, args: tuple[torch.Tensor, ...], kwargs: Any, output: Any) -> None:
        before = args[0] if args else kwargs["hidden_states"]
        behind = output[0] if isinstance(output, tuple) else output
        seen.append((before if side == "before" else behind).detach())

    module = layer.get_submodule(path)
    hook = module.register_forward_hook(keep, with_kwargs=True)
    with torch.no_grad():
        model(torch.tensor([token_ids]), use_cache=False)
    hook.remove()
    (value,) = seen
    return value.reshape(len(token_ids), -1).numpy()


def router_inputs(directory: Path, token_ids: list[int], layer: int) -> np.ndarray:
    """Of each expert its weight, by the router of that layer of Hugging Face's, and its logit; as
    a watchlist has them, [tokens, 2 * experts].
    """
    model = _load(str(directory))
    seen: list[tuple[torch.Tensor, ...]] = []
    (router,) = (
        module
        for name, module in model.named_modules()
        if f"layers.{layer}." in name and "topkrouter" in type(module).__name__.lower()
    )
    hook = router.register_forward_hook(lambda _, __, out: seen.append(out))
    with torch.no_grad():
        model(torch.tensor([token_ids]), use_cache=False)
    hook.remove()
    (out,) = seen  # in some order: logits [tokens, experts], weights and experts [tokens, top_k]
    (chosen,) = (each for each in out if each.dtype == torch.int64)
    weights, logits = sorted((e for e in out if e is not chosen), key=lambda e: e.shape[1])
    weights = weights / getattr(model.config, "routed_scaling_factor", 1.0)
    dense = torch.zeros_like(logits).scatter(1, chosen, weights)
    return torch.stack([dense, logits], dim=-1).flatten(1).numpy()
