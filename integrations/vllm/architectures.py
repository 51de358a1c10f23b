"""Where the residual stream leaves decoder layer L, per architecture. What is not listed is
refused.

`hidden + residual` is not universal: some families return a stream that is already summed,
others a single tensor, and several new ones something else entirely. A wrong guess gives
plausible numbers, so there is no default. Every entry is checked against Hugging Face hidden
states in tests/integrations/vllm.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from saeguard.monitor.errors import UnsupportedError
from saeguard.monitor.sites import HookPoint

if TYPE_CHECKING:  # `saeguard serve` reads the table, and must not wait for torch
    import torch
    from torch import nn


class TapPoint(Enum):
    """Which module to hook, and which of its outputs is the stream."""

    CONSUMER_NORM = "consumer_norm"
    """The fused-add norm that reads layer L's output; it returns (normed, residual), and
    `residual` is the sum the layer produced. No extra addition, and all-reduce + norm fusions
    still match."""

    LAYER_FIRST = "layer_first"
    """The layer returns (stream, residual) with the stream already summed."""

    LAYER_ONLY = "layer_only"
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


_FUSED = Architecture(TapPoint.CONSUMER_NORM)
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
    "ExaoneMoeForCausalLM": _moe(_FUSED),
    "FalconH1ForCausalLM": _SINGLE,
    "GPT2LMHeadModel": replace(_SINGLE, layers="transformer.h"),
    "Gemma2ForCausalLM": _FUSED,
    "Gemma3ForCausalLM": _FUSED,
    "Glm4MoeForCausalLM": _moe(_FUSED),
    "GptOssForCausalLM": _moe(_FUSED, "mlp.router"),
    "GraniteForCausalLM": _SINGLE,
    "GraniteMoeForCausalLM": _moe(_SINGLE, "block_sparse_moe.gate"),
    "GraniteMoeHybridForCausalLM": _moe(_SUMMED, "block_sparse_moe.gate"),
    "GraniteMoeSharedForCausalLM": _moe(_SINGLE, "block_sparse_moe.gate"),
    "Lfm2ForCausalLM": _LFM2,
    "Lfm2MoeForCausalLM": _moe(_LFM2, "feed_forward.gate"),
    "LlamaForCausalLM": _FUSED,
    "Mamba2ForCausalLM": Architecture(
        TapPoint.CONSUMER_NORM, "backbone.layers", final_norm="backbone.norm_f", input_norm="norm"
    ),
    "MistralForCausalLM": _FUSED,
    "MixtralForCausalLM": _moe(_FUSED, "block_sparse_moe.gate"),
    "NemotronHForCausalLM": replace(_FUSED, final_norm="model.norm_f", input_norm="norm"),
    "OlmoeForCausalLM": _moe(_FUSED),
    "Phi3ForCausalLM": _FUSED,
    "Qwen2ForCausalLM": _FUSED,
    "Qwen2MoeForCausalLM": _moe(_FUSED),
    "Qwen3ForCausalLM": _FUSED,
    "Qwen3MoeForCausalLM": _moe(_FUSED),
    "StablelmForCausalLM": _SUMMED,
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
        UnsupportedError: the model has no such layer.
    """
    layer = hook_point.layer
    if not 0 <= layer < num_layers:
        raise UnsupportedError(
            f"the watchlist taps layer {layer}, but this model has layers 0 to {num_layers - 1}",
            "compile the watchlist from SAEs or probes of this model",
        )
    # What a stage hands on, hidden state and residual, the first norm of the next one adds up.
    is_summed_later = hook_point.kind == "resid_post" and entry.tap is TapPoint.CONSUMER_NORM
    return layer + 1 if is_summed_later and layer + 1 < num_layers else layer


def tapped_module(model: nn.Module, entry: Architecture, hook_point: HookPoint) -> nn.Module:
    """The module whose forward hook sees what is watched; it must be on this stage.

    Raises:
        UnsupportedError: the model has no such layer, or nothing of the kind can be tapped.
    """
    if hook_point.kind != "resid_post":
        raise UnsupportedError(
            f"the watchlist watches {hook_point}, which cannot be tapped",
            "use SAEs or probes of blocks.L.hook_resid_post",
        )
    layers, layer = layers_of(model, entry), hook_point.layer
    place = place_of(entry, hook_point, len(layers))
    if entry.tap is not TapPoint.CONSUMER_NORM:
        module: nn.Module = layers[layer]
    elif place == layer:  # the last one
        module = attrgetter(entry.final_norm)(model)
    else:
        module = getattr(layers[place], entry.input_norm)
    return module


def stream_of(entry: Architecture, output: Any) -> torch.Tensor:
    """The residual stream in the output of the tapped module, [tokens, d_model]."""
    if entry.tap is TapPoint.CONSUMER_NORM:
        return output[1]
    if entry.tap is TapPoint.LAYER_FIRST:
        return output[0]
    return output
