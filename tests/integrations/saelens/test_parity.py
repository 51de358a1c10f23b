"""What a worker computes of a compiled SAE is what sae-lens' own `encode` says: the parity table.

The arithmetic is the tap's own op: in fp32, and with the rows as halves of bfloat16. What is right
where the two differ is told by sae-lens' encoder in float64.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from saes import D_MODEL, D_SAE, KINDS, make_sae, write_rules
from tiny_models import hidden_states

from saeguard.integrations.vllm import op
from saeguard.integrations.vllm.tap_rows import halves
from saeguard.monitor import watchlist as wl
from saeguard.monitor.compile import compile_watchlist
from saeguard.rules import RuleSet, load_rules

sae_lens = pytest.importorskip("sae_lens")

ORGANISM = Path(__file__).resolve().parents[3] / "examples" / "organism" / "artifacts"
WATCHED = list(range(0, D_SAE, 3))
NORMS = ["none", "constant_norm_rescale", "layer_norm", "expected_average_only_in"]
FACTOR = 1.7
NUM_TOKENS = 4_096
MAX_FLIPS = 1e-5
"""Of active decisions, with activations of 16 bits."""
U = 2.0**-24
"""The unit roundoff of fp32."""


@dataclass
class Counts:
    """Of decisions."""

    active: int = 0
    """Where sae-lens' gate is open."""
    undecidable: int = 0
    """Whose exact margin is less than what an fp32 sum of such terms may be off by."""
    flipped: int = 0
    """Where one of the two gates is open and the other is not."""
    wrong: int = 0
    """Where ours is not as the exact one."""
    wrong_there: int = 0
    """Where sae-lens' is not as the exact one."""

    def __iadd__(self, other: Counts) -> Counts:
        for name, number in vars(other).items():
            setattr(self, name, getattr(self, name) + number)
        return self


def activations(d_model: int = D_MODEL) -> torch.Tensor:
    """Like a residual stream: tokens of many lengths, one dimension far above the others."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(NUM_TOKENS, d_model, generator=generator)
    x *= torch.rand(NUM_TOKENS, 1, generator=generator) * 3 + 0.1
    x[:, 2] += 20
    return x + 0.3


def worker_scores(site: wl.Site, x: torch.Tensor) -> np.ndarray:
    """By the op, as a worker with a model of x's dtype would fill it."""
    weight = torch.from_numpy(site.weight)
    rows = weight if x.dtype == torch.float32 else halves(weight, x.dtype)
    norm = torch.tensor([wl.NORMS.index(name) for name in site.norms])
    scores, calls = torch.zeros(len(x), len(weight)), torch.zeros(1, dtype=torch.int64)
    bias, threshold = torch.from_numpy(site.bias), torch.from_numpy(site.threshold)
    op._tap(x, rows, bias, threshold, norm if norm.any() else None, scores, calls)
    return scores.numpy()


@pytest.fixture
def products_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's CPU build has no product of 16 bits summed in fp32: what a GPU does, in fp32."""
    mm = torch.mm

    def summed_in_fp32(a: torch.Tensor, b: torch.Tensor, out_dtype: torch.dtype) -> torch.Tensor:
        assert (a.dtype, b.dtype, out_dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)
        return mm(a.float(), b.float())

    monkeypatch.setattr(torch, "mm", summed_in_fp32)


def gates_in_float64(sae: Any, x: torch.Tensor) -> np.ndarray:
    sae = copy.deepcopy(sae).double()
    sae.dtype = torch.float64  # of the input, which a transcoder asks for
    with torch.no_grad():
        acts = sae.encode(x.double())
    assert acts.dtype == torch.float64
    return acts.numpy() > 0


def is_undecidable(site: wl.Site, sae: Any, x: np.ndarray) -> np.ndarray:
    """Whether the terms of a decision add up to so little that in fp32 its side depends on their
    order: the bound of a sum's rounding error (N. Higham, Accuracy and Stability of Numerical
    Algorithms, 2002, chapter 3), with some more roundings for the rows and the scales.
    """
    size_of_row = np.abs(site.weight.astype(np.float64)).T
    sizes = np.abs(x) @ size_of_row
    sizes *= wl.input_scales(x)[:, [wl.NORMS.index(norm) for norm in site.norms]]
    if sae.cfg.apply_b_dec_to_input:
        sizes += np.abs(sae.b_dec.detach().numpy()) @ size_of_row
    sizes += np.abs(site.bias) + np.abs(site.threshold)
    margin = wl.projections(x, site) + site.bias.astype(np.float64) - site.threshold
    return np.abs(margin) <= (x.shape[1] + 8) * U * sizes


def compare(site: wl.Site, sae: Any, x: torch.Tensor) -> Counts:
    """Asserts that scores are equal, and that gates are wherever fp32 can tell."""
    indices = [feature.index for feature in site.features]
    with torch.no_grad():
        expected = sae.encode(x.float()).numpy()[:, indices]
    got = worker_scores(site, x)
    exact = gates_in_float64(sae, x)[:, indices]
    flipped = (got > 0) != (expected > 0)
    p = wl.projections(x.float().numpy(), site) + site.bias
    scale = np.abs(p).max() + np.abs(site.bias).max()
    assert expected[~flipped].any()
    np.testing.assert_allclose(
        got[~flipped], expected[~flipped], rtol=2e-5, atol=1e-5 * float(scale)
    )
    undecidable = is_undecidable(site, sae, x.double().numpy())
    if x.dtype == torch.float32:
        assert not (flipped & ~undecidable).any()
        assert not (((got > 0) != exact) & ~undecidable).any()
    return Counts(
        active=int((expected > 0).sum()),
        undecidable=int(undecidable.sum()),
        flipped=int(flipped.sum()),
        wrong=int(((got > 0) != exact).sum()),
        wrong_there=int(((expected > 0) != exact).sum()),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("parity")


@pytest.fixture(scope="module")
def rules(folder: Path) -> RuleSet:
    """That watch whatever SAE is in the folder `sae` when they are compiled."""
    return load_rules([write_rules(folder, WATCHED)])


@pytest.fixture(scope="module")
def rules_with_factor(folder: Path) -> RuleSet:
    return load_rules([write_rules(folder, WATCHED, {"norm_scaling_factor": FACTOR})])


def table(folder: Path, rules: RuleSet, rules_with_factor: RuleSet, dtype: torch.dtype) -> Counts:
    """All combinations but TopK."""
    total, x = Counts(), activations().to(dtype)
    for architecture in [kind for kind in KINDS if kind != "topk"]:
        for norm in NORMS:
            for apply_b_dec in (False,) if "transcoder" in architecture else (False, True):
                make_sae(folder / "sae", architecture, apply_b_dec, normalize_activations=norm)
                sae = sae_lens.SAE.load_from_disk(str(folder / "sae"))
                is_scaled = norm == "expected_average_only_in"
                if is_scaled:
                    sae.fold_activation_norm_scaling_factor(FACTOR)
                (site,) = compile_watchlist(rules_with_factor if is_scaled else rules).sites
                assert all(feature.exact for feature in site.features)
                total += compare(site, sae, x)
    return total


def test_no_gate_flips_in_fp32_that_fp32_can_decide(
    folder: Path, rules: RuleSet, rules_with_factor: RuleSet
):
    """And of the others hardly one: which do depends on the order in which a processor adds."""
    counts = table(folder, rules, rules_with_factor, torch.float32)
    print(f"fp32: {counts}")
    assert counts.active > 1_500_000
    assert counts.undecidable < MAX_FLIPS * counts.active, "the bound would excuse too much"
    assert max(counts.flipped, counts.wrong) <= 1e-6 * counts.active


@pytest.mark.usefixtures("products_in_fp32")
def test_with_activations_of_16_bits_at_most_1_active_decision_in_100_000_flips(
    folder: Path, rules: RuleSet, rules_with_factor: RuleSet
):
    counts = table(folder, rules, rules_with_factor, torch.bfloat16)
    print(f"bf16: {counts}")
    assert counts.active > 1_500_000
    assert counts.flipped <= MAX_FLIPS * counts.active


@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("norm", ["none", "layer_norm"])
def test_of_topk_the_score_is_the_activation_wherever_the_feature_is_among_the_k(
    folder: Path, rules: RuleSet, norm: str, rescale: bool
):
    make_sae(
        folder / "sae", "topk", True, k=8,
        normalize_activations=norm, rescale_acts_by_decoder_norm=rescale,
    )  # fmt: skip
    sae = sae_lens.SAE.load_from_disk(str(folder / "sae"))
    (site,) = compile_watchlist(rules).sites
    x = activations()[:2048]
    with torch.no_grad():
        expected = sae.encode(x).to_dense().numpy()[:, [f.index for f in site.features]]
    got = worker_scores(site, x)
    kept = expected > 0
    assert kept.any()
    np.testing.assert_allclose(got[kept], expected[kept], rtol=1e-4, atol=1e-3)
    assert (got[~kept] > 0).any(), "a row alone cannot tell"
    assert all(not feature.exact for feature in site.features)
    assert "TopK keeps the 8 largest" in site.features[0].inexact_reason


@pytest.mark.usefixtures("products_in_fp32")
def test_a_trained_sae_on_the_activations_of_its_model(tmp_path: Path):
    sae = sae_lens.SAE.load_from_disk(str(ORGANISM / "sae"))
    watched = range(0, sae.cfg.d_sae, 12)
    rules = load_rules([write_rules(tmp_path, watched, {"path": str(ORGANISM / "sae")})])
    (site,) = compile_watchlist(rules).sites
    token_ids = np.random.default_rng(0).integers(3, 500, (10, 200)).tolist()
    streams = [hidden_states(ORGANISM / "model", ids)[site.hook_point.layer] for ids in token_ids]
    x = torch.from_numpy(np.concatenate(streams))
    for dtype in (torch.float32, torch.bfloat16):
        counts = compare(site, sae, x.to(dtype))
        assert counts.active > 5_000
        assert counts.flipped == 0
