"""A little model laid out as vLLM lays out Llama, with our taps, and without the rest of vLLM.

As there, norms add in place: `fused_add_norm` overwrites the tensors that a tap has just read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from saeguard.integrations.vllm.tap import Tap, hook, make_taps
from saeguard.monitor import watchlist as wl

D_MODEL = 64
NUM_LAYERS = 3
MAX_TOKENS = 40

COMPILE = {"fullgraph": True, "options": {"enable_auto_functionalized_v2": False}}
"""As vLLM compiles: its fusions want the first way of making mutations functional."""


@torch.library.custom_op("saeguard_test::fused_add_norm", mutates_args=("hidden", "residual"))
def fused_add_norm(hidden: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor) -> None:
    residual += hidden
    hidden.copy_(_normed(residual, weight))


@torch.library.custom_op("saeguard_test::mix", mutates_args=())
def mix(hidden: torch.Tensor) -> torch.Tensor:
    """In attention's place: each row gets the mean of those before it."""
    num_rows = torch.arange(1, len(hidden) + 1, device=hidden.device)[:, None]
    return (hidden.float().cumsum(0) / num_rows).to(hidden.dtype)


@mix.register_fake
def _(hidden: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(hidden)


def _normed(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    x = x.float()
    return (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)).to(weight.dtype) * weight


class Norm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(1 + torch.randn(D_MODEL) / 10, requires_grad=False)

    def forward(self, hidden: torch.Tensor, residual: torch.Tensor | None = None):
        if residual is None:
            return _normed(hidden, self.weight)
        fused_add_norm(hidden, residual, self.weight)
        return hidden, residual


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.input_layernorm, self.post_attention_layernorm = Norm(), Norm()
        self.self_attn = nn.Module()
        self.self_attn.o_proj = nn.Linear(D_MODEL, D_MODEL, bias=False)
        self.mlp = nn.Linear(D_MODEL, D_MODEL, bias=False)

    def before(self, hidden: torch.Tensor, residual: torch.Tensor | None):
        """Up to attention."""
        if residual is None:
            return self.input_layernorm(hidden), hidden.clone()
        return self.input_layernorm(hidden, residual)

    def after(self, mixed: torch.Tensor, residual: torch.Tensor):
        hidden = self.self_attn.o_proj(mixed)
        hidden, residual = self.post_attention_layernorm(hidden, residual)
        return torch.relu(self.mlp(hidden)), residual


class LlamaForCausalLM(nn.Module):
    """By this name the table of tap points knows it."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Module()
        self.model.layers = nn.ModuleList([Layer() for _ in range(NUM_LAYERS)])
        self.model.norm = Norm()
        self.requires_grad_(False)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        first, *others, last = self.pieces()
        hidden, residual = first(hidden)
        for piece in others:
            hidden, residual = piece(mix(hidden), residual)
        return last(mix(hidden), residual)

    def pieces(self) -> list[Callable[..., object]]:
        """What vLLM captures by itself in piecewise graphs: all between one attention and the
        next.
        """
        layers = list(self.model.layers)

        def first(hidden: torch.Tensor):
            return layers[0].before(hidden, None)

        def between(one: Layer, next_one: Layer):
            return lambda mixed, residual: next_one.before(*one.after(mixed, residual))

        def last(mixed: torch.Tensor, residual: torch.Tensor):
            return self.model.norm(*layers[-1].after(mixed, residual))[0]

        return [first, *map(between, layers, layers[1:]), last]


def make_tapped(
    watchlist: wl.Watchlist, device: str, dtype: torch.dtype
) -> tuple[LlamaForCausalLM, list[Tap]]:
    torch.manual_seed(3)
    model = LlamaForCausalLM().to(device, dtype)
    taps = make_taps(model, watchlist.sites, MAX_TOKENS)
    hook(taps)
    return model, taps


def streams(hidden: torch.Tensor) -> list[torch.Tensor]:
    """What leaves each layer, by a plain evaluation in the same precision without taps and without
    anything in place.
    """
    torch.manual_seed(3)
    model = LlamaForCausalLM().to(hidden.device, hidden.dtype).model
    residual, left = hidden, []
    for layer in model.layers:
        mixed = mix(_normed(residual, layer.input_layernorm.weight))
        residual = residual + layer.self_attn.o_proj(mixed)
        normed = _normed(residual, layer.post_attention_layernorm.weight)
        residual = residual + torch.relu(layer.mlp(normed))
        left.append(residual)
    return left


def expected(watchlist: wl.Watchlist, hidden: torch.Tensor) -> list[torch.Tensor]:
    """Of each site after a layer, [tokens, features], by the formula in float64."""
    left = [stream.double().cpu().numpy() for stream in streams(hidden)]
    return [
        torch.from_numpy(wl.encode(left[site.hook_point.layer], site)) for site in watchlist.sites
    ]


def largest_error(taps: Sequence[Tap], wanted: Sequence[torch.Tensor]) -> float:
    """Of the taps' first rows, relative to the largest score of each site."""
    errors = []
    for tap, scores in zip(taps, wanted, strict=True):
        got = tap.scores[: len(scores), : tap.width].double().cpu()
        errors.append(float((got - scores).abs().max() / scores.abs().max()))
    return max(errors)
