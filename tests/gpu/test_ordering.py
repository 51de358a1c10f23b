"""The tap reads the stream as it leaves a layer, before the next norm overwrites it in place; and
compiled code writes into the tap's own buffers, without a copy of them.
"""

from __future__ import annotations

import re

import pytest
import torch
from tapped_model import (
    COMPILE,
    D_MODEL,
    NUM_LAYERS,
    expected,
    fused_add_norm,
    largest_error,
    make_tapped,
)
from tiny_models import make_watchlist
from torch._inductor.utils import run_and_get_code

from saeguard.monitor import watchlist as wl
from saeguard.monitor.sites import HookPoint

WATCHLIST = make_watchlist([0, 2])
WAYS = {"v1": COMPILE, "v2": {"fullgraph": True}}
"""Of making mutations functional: vLLM's and PyTorch's own."""


@pytest.mark.parametrize("way", [None, *WAYS])
def test_scores_are_those_before_the_stream_is_overwritten(device: str, way: str | None):
    torch._dynamo.reset()
    model, (tap,) = make_tapped(make_watchlist([NUM_LAYERS - 1]), device, torch.float32)
    norm, weight = model.model.norm, torch.ones(D_MODEL, device=device)

    def overwriting(hidden: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        hidden, residual = norm(hidden, residual)  # the tap reads the sum of both, and
        fused_add_norm(hidden, residual, weight)  # this adds to it where it lies
        return residual

    hidden, residual = torch.randn(2, 9, D_MODEL).to(device)
    before = (hidden + residual).double().cpu().numpy()
    function = overwriting if way is None else torch.compile(overwriting, **WAYS[way])
    after = function(hidden, residual)
    assert (after.cpu() - torch.from_numpy(before)).abs().max() > 0.1
    assert largest_error([tap], [torch.from_numpy(wl.encode(before, tap.site))]) <= 1e-4


@pytest.mark.parametrize("way", WAYS)
def test_compiled_code_copies_no_buffer_of_a_tap(device: str, way: str):
    torch._dynamo.reset()
    model, taps = make_tapped(WATCHLIST, device, torch.float32)
    hidden = torch.randn(9, D_MODEL).to(device)
    _, code = run_and_get_code(torch.compile(model, **WAYS[way]), hidden)
    assert largest_error(taps, expected(WATCHLIST, hidden)) <= 1e-4
    # The last two arguments, scores and calls, are the compiled function's own inputs.
    calls = re.findall(r"torch\.ops\.saeguard\.tap\.default\(.*, (\w+), (\w+)\)", "\n".join(code))
    assert len(calls) == len(taps)
    assert all(name.startswith("arg") for call in calls for name in call), calls


@pytest.mark.parametrize("is_compiled", [False, True], ids=["eager", "compiled"])
def test_two_sites_of_one_norm_are_told_apart(device: str, is_compiled: bool):
    """Which returns the stream as it leaves one layer, and what the next MLP reads."""
    torch._dynamo.reset()
    points = [HookPoint(1, "resid_mid"), HookPoint(1, "mlp_in"), HookPoint(1, "resid_pre"), 0]
    watchlist = make_watchlist(points)
    model, taps = make_tapped(watchlist, device, torch.float32)
    seen: dict[str, torch.Tensor] = {}
    layer = model.model.layers[1]
    for name, norm in (("attn", layer.input_layernorm), ("mlp", layer.post_attention_layernorm)):
        norm.register_forward_hook(
            lambda _, __, output, name=name: seen.update({name: [each.clone() for each in output]})
        )
    hidden = torch.randn(9, D_MODEL).to(device)
    model(hidden.clone())
    inputs = {
        "resid_pre": seen["attn"][1], "resid_post": seen["attn"][1],
        "mlp_in": seen["mlp"][0], "resid_mid": seen["mlp"][1],
    }  # fmt: skip
    layer.input_layernorm._forward_hooks.popitem()
    layer.post_attention_layernorm._forward_hooks.popitem()
    if is_compiled:
        for tap in taps:
            tap.scores.fill_(torch.nan)
        torch.compile(model, **COMPILE)(hidden.clone())
    wanted = [
        torch.from_numpy(wl.encode(inputs[tap.site.hook_point.kind].cpu().numpy(), tap.site))
        for tap in taps
    ]
    assert largest_error(taps, wanted) <= 1e-4
