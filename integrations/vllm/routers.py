"""What the router of a Mixture-of-Experts layer decides: which experts, with which weights.

vLLM makes that decision inside its kernels, so the tap makes it again from the same logits. Whether
both agree is tried on every watched layer before the server serves; a router that chooses in any
other way is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from torch import nn

from saeguard.integrations.vllm.architectures import Architecture, layers_of, place_of
from saeguard.integrations.vllm.op import router_inputs
from saeguard.monitor.errors import UnsupportedError
from saeguard.monitor.sites import HookPoint

_NUM_TRIALS = 32


@dataclass(frozen=True, slots=True)
class Routing:
    """How logits become weights; see `op.router_inputs`."""

    num_experts: int
    top_k: int
    is_sigmoid: bool
    """Else softmax."""
    renormalize: bool
    """Whether the weights of the chosen experts are divided by their sum."""
    choice_bias: torch.Tensor | None  # [num_experts]
    """Added to the scores to choose experts by, not to their weights."""

    @property
    def layout(self) -> tuple[int, int, bool, bool, bool]:
        """What a compiled graph holds of it."""
        has_bias = self.choice_bias is not None
        return self.num_experts, self.top_k, self.is_sigmoid, self.renormalize, has_bias


@dataclass(frozen=True, slots=True)
class Router:
    """The router of one layer."""

    gate: nn.Module
    """Its linear layer, whose output are the logits, [tokens, num_experts]."""
    routing: Routing


def router_of(model: nn.Module, entry: Architecture, hook_point: HookPoint) -> Router:
    """
    Raises:
        UnsupportedError: the layer has no router, or one that is not understood.
    """
    layers, layer = layers_of(model, entry), hook_point.layer
    block, gate = _find(layers[place_of(entry, hook_point, len(layers))], entry.gate)
    if gate is None:
        raise UnsupportedError(
            f"the watchlist watches the router of layer {layer}, and {type(model).__name__} has "
            "none there",
            "name a layer with experts, or leave that feature out",
        )
    try:
        routing = _routing(block.experts.router, gate)
        error = _largest_error(block.experts.router, gate, routing)
    except Exception as cause:
        raise _unlike(model, layer, f"({cause})") from cause
    if not error <= 1e-4:
        raise _unlike(model, layer, f"(weights differ by {error:.2g})")
    return Router(gate, routing)


def _find(layer: nn.Module, path: str) -> tuple[Any, Any]:
    """The block of experts and its gate; None where this layer has none."""
    block_name, _, gate_name = path.rpartition(".")
    block: Any = attrgetter(block_name)(layer)
    # In some models the experts call the gate: then theirs counts, should another have been put in
    # its place.
    own = getattr(getattr(block, "experts", None), "gate", None)
    return block, getattr(block, gate_name, None) if own is None else own


def _routing(router: Any, gate: Any) -> Routing:
    if getattr(router, "custom_routing_function", None) is not None:
        raise ValueError("it has a routing function of its own")
    if (getattr(router, "num_expert_group", None) or 1) > 1:
        raise ValueError("it chooses groups of experts first")
    return Routing(
        num_experts=_sizes(gate)[1],
        top_k=router.top_k,
        is_sigmoid={"softmax": False, "sigmoid": True}[router.scoring_func],
        renormalize=bool(router.renormalize),
        choice_bias=getattr(router, "e_score_correction_bias", None),
    )


def _sizes(gate: Any) -> tuple[int, int]:
    """How many inputs and outputs it has. Until vLLM 0.30 some are PyTorch's own linear layers."""
    if isinstance(gate, nn.Linear):
        return gate.in_features, gate.out_features
    return gate.input_size, gate.output_size


def _largest_error(router: Any, gate: Any, routing: Routing) -> float:
    """Between vLLM's own weights and ours, on random logits."""
    device = next(gate.parameters()).device
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(_NUM_TRIALS, routing.num_experts, generator=generator).to(device)
    hidden = torch.zeros(_NUM_TRIALS, _sizes(gate)[0], device=device)
    weights, experts = router._compute_routing(hidden, logits, None)
    theirs = torch.zeros_like(logits).scatter(1, experts.long(), weights.float())
    ours = router_inputs(
        logits, routing.choice_bias, routing.top_k, routing.is_sigmoid, routing.renormalize
    )[:, ::2]
    # Some of vLLM's routers already apply the constant that scales all experts of the model.
    factors = {1.0, float(getattr(router, "routed_scaling_factor", 1.0))}
    return min(float((theirs - factor * ours).abs().max()) for factor in factors)


def _unlike(model: nn.Module, layer: int, why: str) -> UnsupportedError:
    return UnsupportedError(
        f"the router of layer {layer} of {type(model).__name__} does not choose experts in a way "
        f"that saeguard knows {why}",
        "leave features of routers out",
    )
