"""Where each hook point of a decoder layer (monitor/sites.py) is found, per architecture. What is
not listed is refused.

`hidden + residual` is not universal: some families return a stream that is already summed,
others a single tensor, and several new ones something else entirely. A wrong guess gives
plausible numbers, so there is no default. Every entry is checked against Hugging Face in
tests/integrations/vllm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from saeguard.monitor.errors import UnsupportedError
from saeguard.monitor.sites import HookPoint, SiteKind

if TYPE_CHECKING:  # `saeguard serve` reads the table, and must not wait for torch
    import torch
    from torch import nn


class Part(Enum):
    """What of a module's call is watched."""

    INPUT = "input"
    """Its first argument."""

    OUTPUT = "output"

    FIRST = "first"
    """Of several outputs."""

    SECOND = "second"


@dataclass(frozen=True, slots=True)
class Reading:
    """Where something is read."""

    path: str
    """Of a module, inside a decoder layer."""
    part: Part


class TapPoint(Enum):
    """Where the stream that leaves layer L is read."""

    CONSUMER_NORM = Part.SECOND
    """Of the fused-add norm that reads layer L's output; it returns (normed, residual), and
    `residual` is the sum the layer produced. No extra addition, and all-reduce + norm fusions
    still match."""

    LAYER_FIRST = Part.FIRST
    """The layer returns (stream, residual) with the stream already summed."""

    LAYER_ONLY = Part.OUTPUT
    """The layer returns the stream alone."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """How to find and tap the decoder layers of one model class."""

    tap: TapPoint
    layers: str = "model.layers"
    final_norm: str = "model.norm"
    """The consumer of the last layer's output."""
    input_norm: str = "input_layernorm"
    """The consumer inside layer L + 1."""
    gate: str = ""
    """Inside a layer, the linear layer of its router, beside its `experts`; empty: no routers that
    are read."""
    inside: Mapping[SiteKind, Reading] = field(default_factory=dict)
    """What is read inside a layer. `resid_pre` is that of layer 0: the stream enters any other as
    it leaves the one before."""

    @property
    def kinds(self) -> tuple[SiteKind, ...]:
        """What can be watched."""
        return (*self.inside, "resid_post", *(("router",) if self.gate else ()))


_INSIDE: Mapping[SiteKind, Reading] = {
    # In layer 0 the norm adds nothing up: it writes into a tensor of its own.
    "resid_pre": Reading("input_layernorm", Part.INPUT),
    "attn_z": Reading("self_attn.o_proj", Part.INPUT),
    "attn_out": Reading("self_attn", Part.OUTPUT),
    "resid_mid": Reading("post_attention_layernorm", Part.SECOND),
    "mlp_in": Reading("post_attention_layernorm", Part.FIRST),
    "mlp_out": Reading("mlp", Part.OUTPUT),
}
# Here attention and MLP each have a norm behind them too, before their output is added.
_INSIDE_GEMMA: Mapping[SiteKind, Reading] = {
    **_INSIDE,
    "attn_out": Reading("post_attention_layernorm", Part.OUTPUT),
    "resid_mid": Reading("pre_feedforward_layernorm", Part.SECOND),
    "mlp_in": Reading("pre_feedforward_layernorm", Part.FIRST),
    "mlp_out": Reading("post_feedforward_layernorm", Part.OUTPUT),
}
_INSIDE_GPT2: Mapping[SiteKind, Reading] = {
    "resid_pre": Reading("ln_1", Part.INPUT),
    "attn_z": Reading("attn.c_proj", Part.INPUT),
    "attn_out": Reading("attn", Part.OUTPUT),
    "resid_mid": Reading("ln_2", Part.INPUT),
    "mlp_in": Reading("ln_2", Part.OUTPUT),
    "mlp_out": Reading("mlp", Part.OUTPUT),
}
_INSIDE_STABLELM: Mapping[SiteKind, Reading] = {
    **_INSIDE,
    "resid_mid": Reading("post_attention_layernorm", Part.INPUT),
    "mlp_in": Reading("post_attention_layernorm", Part.OUTPUT),
}
_INSIDE_MIXTRAL: Mapping[SiteKind, Reading] = {
    **_INSIDE,
    "mlp_out": Reading("block_sparse_moe", Part.OUTPUT),
}

_FUSED = Architecture(TapPoint.CONSUMER_NORM)
_LLAMA = replace(_FUSED, inside=_INSIDE)
_GEMMA = replace(_FUSED, inside=_INSIDE_GEMMA)
_SUMMED = Architecture(TapPoint.LAYER_FIRST)
_SINGLE = Architecture(TapPoint.LAYER_ONLY)
_LFM2 = replace(_FUSED, final_norm="model.embedding_norm", input_norm="operator_norm")


def _moe(entry: Architecture, gate: str = "mlp.gate") -> Architecture:
    return replace(entry, gate=gate)


ARCHITECTURES: dict[str, Architecture] = {
    "CohereForCausalLM": _SUMMED,
    "Cohere2MoeForCausalLM": _moe(_SUMMED),
    "DeepseekForCausalLM": _FUSED,
    "DeepseekV2ForCausalLM": _FUSED,
    "DeepseekV3ForCausalLM": _FUSED,
    "Ernie4_5_MoeForCausalLM": _FUSED,
    "ExaoneMoeForCausalLM": _moe(_LLAMA),
    "FalconH1ForCausalLM": _SINGLE,
    "GPT2LMHeadModel": replace(_SINGLE, layers="transformer.h", inside=_INSIDE_GPT2),
    "Gemma2ForCausalLM": _GEMMA,
    "Gemma3ForCausalLM": _GEMMA,
    "Glm4MoeForCausalLM": _moe(_LLAMA),
    "GptOssForCausalLM": _moe(_FUSED, "mlp.router"),
    "GraniteForCausalLM": _SINGLE,
    "GraniteMoeForCausalLM": _moe(_SINGLE, "block_sparse_moe.gate"),
    "GraniteMoeHybridForCausalLM": _moe(_SUMMED, "block_sparse_moe.gate"),
    "GraniteMoeSharedForCausalLM": _moe(_SINGLE, "block_sparse_moe.gate"),
    "Lfm2ForCausalLM": _LFM2,
    "Lfm2MoeForCausalLM": _moe(_LFM2, "feed_forward.gate"),
    "LlamaForCausalLM": _LLAMA,
    "Mamba2ForCausalLM": Architecture(
        TapPoint.CONSUMER_NORM, "backbone.layers", final_norm="backbone.norm_f", input_norm="norm"
    ),
    "MistralForCausalLM": _LLAMA,
    "MixtralForCausalLM": _moe(replace(_FUSED, inside=_INSIDE_MIXTRAL), "block_sparse_moe.gate"),
    "NemotronHForCausalLM": replace(_FUSED, final_norm="model.norm_f", input_norm="norm"),
    "OlmoeForCausalLM": _moe(_LLAMA),
    "Phi3ForCausalLM": _LLAMA,
    "Qwen2ForCausalLM": _LLAMA,
    "Qwen2MoeForCausalLM": _moe(_LLAMA),
    "Qwen3ForCausalLM": _LLAMA,
    "Qwen3MoeForCausalLM": _moe(_LLAMA),
    "StablelmForCausalLM": replace(_SUMMED, inside=_INSIDE_STABLELM),
    "Zamba2ForCausalLM": _SINGLE,
}


def architecture_of(model: nn.Module) -> Architecture:
    """The entry of this model.

    A multimodal wrapper is not looked into: vLLM compiles its language model under a configuration
    of its own, so the compile cache would not know of the taps.

    Raises:
        UnsupportedError: no entry for this class.
    """
    name = type(model).__name__
    if name not in ARCHITECTURES:
        raise UnsupportedError(
            f"architecture {name} has no entry in saeguard's table of tap points",
            f"supported: {', '.join(sorted(ARCHITECTURES))}",
        )
    return ARCHITECTURES[name]


def layers_of(model: nn.Module, entry: Architecture) -> Any:
    """The list of its decoder layers: of all of them, but those of other stages of a pipeline are
    empty.
    """
    return attrgetter(entry.layers)(model)


def place_of(entry: Architecture, hook_point: HookPoint, num_layers: int) -> int:
    """The decoder layer in or beside which this is tapped: they are on the same stage of a
    pipeline.

    Raises:
        UnsupportedError: the model has no such layer, or nothing of the kind that can be tapped.
    """
    layer = hook_point.layer
    check_kind(entry, hook_point)
    if not 0 <= layer < num_layers:
        raise UnsupportedError(
            f"the watchlist taps layer {layer}, but this model has layers 0 to {num_layers - 1}",
            "compile the watchlist from SAEs or probes of this model",
        )
    if hook_point.kind == "resid_pre" and layer > 0:
        return place_of(entry, HookPoint(layer - 1), num_layers)
    # What a stage hands on, hidden state and residual, the first norm of the next one adds up.
    is_summed_later = hook_point.kind == "resid_post" and entry.tap is TapPoint.CONSUMER_NORM
    return layer + 1 if is_summed_later and layer + 1 < num_layers else layer


def check_kind(entry: Architecture, hook_point: HookPoint) -> None:
    """
    Raises:
        UnsupportedError: this architecture has nothing of the kind that can be tapped.
    """
    if hook_point.kind not in entry.kinds:
        offered = ", ".join(str(HookPoint(hook_point.layer, kind)) for kind in entry.kinds)
        raise UnsupportedError(
            f"the watchlist watches {hook_point}, which cannot be tapped in this model",
            f"these can: {offered}",
        )


def tapped(model: nn.Module, entry: Architecture, hook_point: HookPoint) -> tuple[nn.Module, Part]:
    """The module whose forward hook sees what is watched, and as what; it must be on this stage.

    Raises:
        UnsupportedError: the model has no such layer, or nothing of the kind that can be tapped.
    """
    layers, layer, kind = layers_of(model, entry), hook_point.layer, hook_point.kind
    if kind == "resid_pre" and layer > 0:
        return tapped(model, entry, HookPoint(layer - 1))
    place = place_of(entry, hook_point, len(layers))
    if kind in entry.inside:
        reading = entry.inside[kind]
        return attrgetter(reading.path)(layers[place]), reading.part
    if entry.tap is not TapPoint.CONSUMER_NORM:
        module: nn.Module = layers[layer]
    elif place == layer:  # the last one
        module = attrgetter(entry.final_norm)(model)
    else:
        module = getattr(layers[place], entry.input_norm)
    return module, entry.tap.value


def value_of(part: Part, args: Any, output: Any) -> torch.Tensor:
    """What is watched of a call, [tokens, inputs]."""
    match part:
        case Part.INPUT:
            value = args[0]
        case Part.OUTPUT:
            value = output
        case Part.FIRST:
            value = output[0]
        case Part.SECOND:
            value = output[1]
    return value
