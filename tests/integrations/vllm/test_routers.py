"""Weights of experts: as vLLM's own routers give them, or a router is refused by name."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import D_MODEL, make_watchlist
from torch import nn

from saeguard.integrations.vllm import op
from saeguard.integrations.vllm.architectures import ARCHITECTURES
from saeguard.integrations.vllm.preflight import check_model
from saeguard.integrations.vllm.refill import refill
from saeguard.integrations.vllm.routers import Router, router_of
from saeguard.integrations.vllm.self_test import self_test
from saeguard.integrations.vllm.tap import make_taps
from saeguard.monitor import watchlist as wl
from saeguard.monitor.errors import UnsupportedError
from saeguard.monitor.sites import HookPoint

CPURouter = pytest.importorskip(
    "vllm.model_executor.layers.fused_moe.router.cpu_router",
    reason="this vLLM has no CPURouter: on a CPU it chooses experts elsewhere",
).CPURouter
NUM_EXPERTS = 8
LOGITS = torch.randn(50, NUM_EXPERTS, generator=torch.Generator().manual_seed(5))
GROUPED: dict[str, Any] = {"use_grouped_topk": True, "num_expert_group": 1, "topk_group": 1}


class Gate(nn.Module):
    """Has the sizes and the parameter of vLLM's linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.input_size, self.output_size = D_MODEL, NUM_EXPERTS
        self.weight = nn.Parameter(torch.zeros(NUM_EXPERTS, D_MODEL))


class MixtralForCausalLM(nn.Module):
    """As much of vLLM's as a router needs: one layer of experts, with a real router, and one
    without.
    """

    def __init__(self, **router: Any) -> None:
        super().__init__()
        block = nn.Module()
        block.gate = Gate()
        block.experts = SimpleNamespace(router=CPURouter(3, NUM_EXPERTS, **router))
        dense, routed = nn.Module(), nn.Module()
        dense.block_sparse_moe, routed.block_sparse_moe = nn.Module(), block
        self.model = nn.Module()
        self.model.layers = nn.ModuleList([dense, routed])


def router_in(model: nn.Module, layer: int = 1) -> Router:
    return router_of(model, ARCHITECTURES["MixtralForCausalLM"], HookPoint(layer, "router"))


def router_site(*inputs: int) -> wl.Site:
    """Watches these of a router's inputs, at layer 1."""
    weight = torch.eye(max(inputs) + 1)[list(inputs)].numpy()
    (site,) = make_watchlist([1], num_features=len(inputs), d_model=weight.shape[1]).sites
    zeros = np.zeros(len(inputs), np.float32)
    return wl.Site(
        HookPoint(1, "router"), site.features, weight, zeros, zeros - np.inf, site.golden_inputs,
        site.golden_inputs @ weight.T,
    )  # fmt: skip


@pytest.mark.parametrize(
    "router",
    [
        {},
        {"renormalize": False},
        {**GROUPED, "scoring_func": "sigmoid"},
        {**GROUPED, "scoring_func": "sigmoid", "e_score_correction_bias": torch.randn(NUM_EXPERTS)},
        {**GROUPED, "scoring_func": "sigmoid", "renormalize": False, "routed_scaling_factor": 2.5},
    ],
    ids=["softmax", "as they are", "sigmoid", "sigmoid and bias", "scaled"],
)
def test_weights_are_those_of_vllm_and_0_where_an_expert_is_not_chosen(router: dict[str, Any]):
    model = MixtralForCausalLM(**router)
    routing = router_in(model).routing
    got = op.router_inputs(
        LOGITS, routing.choice_bias, routing.top_k, routing.is_sigmoid, routing.renormalize
    )
    weights, experts = model.model.layers[1].block_sparse_moe.experts.router._compute_routing(
        torch.zeros(50, D_MODEL), LOGITS, None
    )
    weights = weights / router.get("routed_scaling_factor", 1.0)
    expected = torch.zeros_like(LOGITS).scatter(1, experts.long(), weights)
    torch.testing.assert_close(got[:, ::2], expected)
    torch.testing.assert_close(got[:, 1::2], LOGITS)
    assert (got[:, ::2] > 0).sum(dim=1).tolist() == [3] * 50


@pytest.mark.parametrize(
    ("router", "why"),
    [
        ({"custom_routing_function": len}, "routing function of its own"),
        ({**GROUPED, "num_expert_group": 2}, "groups of experts first"),
        ({"e_score_correction_bias": torch.randn(NUM_EXPERTS)}, "weights differ by"),
    ],
    ids=["custom", "groups", "other weights"],
)
def test_a_router_that_chooses_otherwise_is_refused_by_name(router: dict[str, Any], why: str):
    with pytest.raises(UnsupportedError, match=f"layer 1 of MixtralForCausalLM.*{why}"):
        router_in(MixtralForCausalLM(**router))


def test_a_layer_without_a_router_is_refused_and_so_is_a_model_without_routers():
    model = MixtralForCausalLM()
    with pytest.raises(UnsupportedError, match="router of layer 0, and MixtralForCausalLM has non"):
        router_in(model, layer=0)
    with pytest.raises(UnsupportedError, match=r"router\.1, which cannot be tapped in this model"):
        router_of(model, ARCHITECTURES["LlamaForCausalLM"], HookPoint(1, "router"))
    with pytest.raises(UnsupportedError, match="taps layer 2, but this model has layers 0 to 1"):
        router_in(model, layer=2)


def test_a_model_without_routers_is_refused_before_anything_starts(tmp_path: Path):
    (tmp_path / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    with pytest.raises(UnsupportedError, match=r"watches router\.1, which cannot be tapped"):
        check_model(str(tmp_path), wl.build(None, [router_site(2)]))


def test_a_gate_may_be_a_linear_layer_of_pytorch():
    model = MixtralForCausalLM()
    model.model.layers[1].block_sparse_moe.gate = nn.Linear(D_MODEL, NUM_EXPERTS)
    assert router_in(model).routing.num_experts == NUM_EXPERTS


def test_of_equal_logits_the_first_experts_are_chosen():
    weights = op.router_inputs(torch.zeros(1, 4), None, 2, False, True)[0, ::2]
    assert weights.tolist() == [0.5, 0.5, 0.0, 0.0]


def test_scores_of_a_broken_router_are_not_numbers():
    op.register()
    logits = LOGITS.clone()
    logits[7, 2] = torch.nan
    rows, scores = torch.eye(16), torch.zeros(50, 16)
    ungated = torch.full((16,), -torch.inf)
    calls = torch.zeros(1, dtype=torch.int64)
    torch.ops.saeguard.tap_router(
        logits, None, 2, False, True, rows, torch.zeros(16), ungated, scores, calls
    )
    assert scores[7].isnan().all()
    assert not scores[[*range(7), *range(8, 50)]].isnan().any()
    assert calls.tolist() == [1]


def test_another_expert_fits_the_running_graph_and_one_that_is_not_there_is_refused():
    taps = make_taps(MixtralForCausalLM(), [router_site(2, 5)], max_tokens=64)
    self_test(taps)
    (tap,) = refill(taps, wl.build(None, [router_site(0, 15)]))
    self_test([tap])
    assert tap.rows[:2].argmax(dim=1).tolist() == [0, 15]
    with pytest.raises(UnsupportedError, match="expert 8 of layer 1, whose router"):
        refill(taps, wl.build(None, [router_site(16)]))
