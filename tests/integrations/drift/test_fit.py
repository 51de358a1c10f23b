"""What an SAE makes of activations is what sae-lens' own encode and decode make of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from saes import D_MODEL, make_sae

from saeguard.integrations.discovery.activations import column_names
from saeguard.integrations.drift.fit import compare_fit, decode_all, encode_all
from saeguard.integrations.saelens.layouts import open_encoder
from saeguard.monitor.errors import ConfigError
from saeguard.monitor.sites import HookPoint
from saeguard.rules import RequestContext
from saeguard.rules.drift.samples import Sample
from saeguard.rules.recordings.offline import RecordedRequest

pytest.importorskip("sae_lens")

HOOK_POINT = HookPoint(3)


def activations(seed: int = 1, num_tokens: int = 600, scale: float = 1.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return scale * rng.normal(0.3, 1, (num_tokens, D_MODEL)) * rng.uniform(0.5, 3, (num_tokens, 1))


@pytest.mark.parametrize(
    ("architecture", "norm", "config"),
    [
        ("standard", "none", {}),
        ("jumprelu", "constant_norm_rescale", {}),
        ("gated", "layer_norm", {}),
        ("topk", "none", {"k": 7}),
        ("topk", "layer_norm", {"k": 7, "rescale_acts_by_decoder_norm": True}),
    ],
)
def test_features_and_reconstruction_are_those_of_sae_lens(
    tmp_path: Path, architecture: str, norm: str, config: dict[str, object]
):
    sae = make_sae(tmp_path, architecture, True, normalize_activations=norm, **config)
    x = activations()
    with torch.no_grad():
        acts = sae.encode(torch.from_numpy(x).float())
        wanted = sae.decode(acts).numpy()
    encoder = open_encoder(tmp_path)
    found = encode_all(encoder, x)
    flips = (found > 0) != (acts.numpy() > 0)
    assert flips.mean() < 1e-4
    rows = ~flips.any(axis=1)
    assert found[rows] == pytest.approx(acts.numpy()[rows], rel=2e-4, abs=2e-4)
    assert decode_all(encoder, x, found)[rows] == pytest.approx(wanted[rows], rel=1e-3, abs=2e-3)


def side(x: np.ndarray, tag: str = "r") -> Sample:
    requests = [
        RecordedRequest(
            RequestContext(id=f"{tag}{i}"),
            column_names(HOOK_POINT, D_MODEL),
            part.astype(np.float32),
            np.arange(len(part), dtype=np.int32),
            np.full(len(part), 3, np.uint8),
        )
        for i, part in enumerate(np.array_split(x, 30))
    ]
    return Sample.plain(requests)


def test_explained_variance_and_l0_are_those_of_all_tokens_but_the_first(tmp_path: Path):
    sae = make_sae(tmp_path, "jumprelu", True)
    x = activations()
    fit = compare_fit(tmp_path, side(x), side(x))
    kept = np.concatenate([part[1:] for part in np.array_split(x, 30)]).astype(np.float32)
    with torch.no_grad():
        acts = sae.encode(torch.from_numpy(kept))
        error = ((sae.decode(acts).numpy() - kept) ** 2).sum()
    wanted = 1 - error / ((kept - kept.mean(axis=0)) ** 2).sum()
    assert fit.explained[0].value == pytest.approx(wanted, rel=1e-4)
    assert fit.l0[0].value == pytest.approx((acts > 0).sum().item() / len(kept), rel=1e-3)
    assert fit.l0[0].low < fit.l0[0].value < fit.l0[0].high
    assert not fit.has_moved


def test_an_sae_is_busier_on_activations_that_are_larger(tmp_path: Path):
    make_sae(tmp_path, "jumprelu", False)
    fit = compare_fit(tmp_path, side(activations()), side(activations(2, scale=2.0), "other"))
    assert fit.l0_ratio.low > 1.0
    assert fit.has_moved


def test_an_sae_of_other_inputs_or_without_a_reconstruction_is_refused(tmp_path: Path):
    make_sae(tmp_path / "sae", "standard", True)
    narrow = side(activations())
    narrow = Sample.plain(
        [
            RecordedRequest(
                r.context,
                column_names(HOOK_POINT, 8),
                r.scores[:, :8],
                r.positions,
                r.phases,
            )
            for r in narrow.requests
        ]
    )
    with pytest.raises(ConfigError, match=f"reads {D_MODEL} numbers of a token, and 8 were"):
        compare_fit(tmp_path / "sae", narrow, narrow)
    make_sae(tmp_path / "transcoder", "transcoder", False)
    with pytest.raises(ConfigError, match="does not reconstruct what it reads"):
        compare_fit(tmp_path / "transcoder", narrow, narrow)
