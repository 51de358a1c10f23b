"""What an SAE explains of the activations of both sides: the share of their variance that its
reconstruction keeps, and how many features it takes for that (L0).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from saeguard.integrations.discovery.activations import activations_at
from saeguard.integrations.saelens.encoder import Encoder, Matrix
from saeguard.integrations.saelens.files import first_vector
from saeguard.integrations.saelens.layouts import open_encoder
from saeguard.integrations.saelens.tensors import Doubles
from saeguard.monitor.errors import ConfigError
from saeguard.monitor.sites import HookPoint
from saeguard.monitor.watchlist import NORMS, input_scales
from saeguard.rules.drift.samples import Sample

MATERIAL_LOSS = 0.02
"""Of explained variance."""
MATERIAL_L0 = 0.1
"""Of L0, as a part of it."""

_MAX_TOKENS = 16_384
_BLOCK_NUMBERS = 2**24
_NUM_BOOTSTRAPS = 1000
_DECODER_BIASES = ("b_dec", "decoder.bias", "bias", "decoder_linear.bias", "decoder_bias")


@dataclass(frozen=True, slots=True)
class Estimate:
    """With its 95 % interval, over groups of requests."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Fit:
    """Of one SAE on both sides; explained variance is 1 where nothing is lost."""

    sae: str
    hook_point: str
    explained: tuple[Estimate, Estimate]
    l0: tuple[Estimate, Estimate]
    explained_change: Estimate
    l0_ratio: Estimate
    num_tokens: tuple[int, int]

    @property
    def has_moved(self) -> bool:
        """More than chance, and enough to matter."""
        loss, ratio = self.explained_change, self.l0_ratio
        fits_worse = loss.high < 0 and loss.value <= -MATERIAL_LOSS
        is_busier = not ratio.low <= 1 <= ratio.high and abs(ratio.value - 1) >= MATERIAL_L0
        return fits_worse or is_busier


def compare_fit(path: Path, reference: Sample, recent: Sample, layer: int | None = None) -> Fit:
    """
    Raises:
        SaeguardError: the SAE cannot be read, or its inputs were not captured.
    """
    encoder = open_encoder(path, layer)
    if "transcoder" in encoder.architecture:
        raise ConfigError(f"{path}: a transcoder does not reconstruct what it reads")
    if encoder.hook_name is None:
        raise ConfigError(f"{path}: its files do not say where it reads")
    if encoder.input_factor is None:
        raise ConfigError(f"{path}: its files do not say by what its input is multiplied")
    hook_point = HookPoint.parse(encoder.hook_name)
    sums = [_sums(encoder, hook_point, side) for side in (reference, recent)]
    rng = np.random.default_rng(0)
    drawn = [
        of_side.means(rng.multinomial(n, np.full(n, 1 / n), size=_NUM_BOOTSTRAPS))
        for of_side in sums
        for n in [len(of_side.num_tokens)]
    ]
    found = [of_side.means(np.ones((1, len(of_side.num_tokens)))) for of_side in sums]
    (explained, l0), (explained_drawn, l0_drawn) = (
        zip(*found, strict=True),
        zip(*drawn, strict=True),
    )
    return Fit(
        sae=path.name,
        hook_point=str(hook_point),
        explained=(
            _estimate(explained[0], explained_drawn[0]),
            _estimate(explained[1], explained_drawn[1]),
        ),
        l0=(_estimate(l0[0], l0_drawn[0]), _estimate(l0[1], l0_drawn[1])),
        explained_change=_estimate(
            explained[1] - explained[0], explained_drawn[1] - explained_drawn[0]
        ),
        l0_ratio=_estimate(l0[1] / l0[0], l0_drawn[1] / l0_drawn[0]),
        num_tokens=(int(sums[0].num_tokens.sum()), int(sums[1].num_tokens.sum())),
    )


def _estimate(value: Doubles, drawn: Doubles) -> Estimate:
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Estimate(float(value[0]), float(low), float(high))


@dataclass(frozen=True, slots=True, eq=False)
class _Sums:
    """Over the tokens of each group."""

    num_tokens: Doubles
    """[groups]"""
    x: Doubles
    """[groups, inputs]"""
    squares: Doubles
    errors: Doubles
    num_active: Doubles

    def means(self, weights: npt.NDArray[Any]) -> tuple[Doubles, Doubles]:
        """Explained variance and L0 of groups that count so often, [draws]."""
        num_tokens = weights @ self.num_tokens
        variance = weights @ self.squares - np.square(weights @ self.x).sum(axis=1) / num_tokens
        return 1 - weights @ self.errors / variance, weights @ self.num_active / num_tokens


def _sums(encoder: Encoder, hook_point: HookPoint, side: Sample) -> _Sums:
    rows: dict[str, list[Doubles]] = defaultdict(list)
    for request, group in zip(side.requests, side.groups, strict=True):
        x = activations_at(request, hook_point)
        # SAEs are trained without the first token of a text, which is far out.
        kept = ~np.isnan(x).any(axis=1) & (request.positions > 0)
        rows[group].append(x[kept].astype(np.float64))
    of_groups = [np.concatenate(parts) for parts in rows.values()]
    of_groups = [x for x in of_groups if len(x)]
    num_tokens = sum(map(len, of_groups))
    if num_tokens == 0:
        raise ConfigError(f"no activations of {hook_point} were observed")
    step = -(-num_tokens // _MAX_TOKENS)
    of_groups = [x[::step] for x in of_groups]
    lengths = [len(x) for x in of_groups]
    tokens = np.concatenate(of_groups)
    errors, num_active = _reconstruct(encoder, tokens)
    first = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    return _Sums(
        np.array(lengths, float),
        *(
            np.add.reduceat(values, first, axis=0)
            for values in (tokens, np.square(tokens).sum(axis=1), errors, num_active)
        ),
    )


def _reconstruct(encoder: Encoder, x: Doubles) -> tuple[Doubles, Doubles]:
    """Of each token the squared error, and how many features are active."""
    if x.shape[1] != encoder.weights.shape[1]:
        raise ConfigError(
            f"{encoder.file.path}: reads {encoder.weights.shape[1]} numbers of a token, and "
            f"{x.shape[1]} were captured"
        )
    step = max(1, _BLOCK_NUMBERS // encoder.weights.shape[0])
    parts = []
    for start in range(0, len(x), step):
        some = x[start : start + step]
        activations = encode_all(encoder, some)
        errors = np.square(decode_all(encoder, some, activations) - some).sum(axis=1)
        parts.append((errors, np.count_nonzero(activations, axis=1).astype(float)))
    return np.concatenate([e for e, _ in parts]), np.concatenate([n for _, n in parts])


def encode_all(encoder: Encoder, x: Doubles) -> Doubles:
    """Activations of all features, [tokens, features]."""
    centre, scale = _normalisation(encoder, x)
    inputs = (x - centre) * scale
    if encoder.b_dec is not None:
        inputs = inputs - encoder.b_dec
    gate = encoder.gate
    p = encoder.weights.products(inputs).astype(np.float64) * gate.slope + gate.bias
    if encoder.rescaled_by_decoder:
        p *= _decoder(encoder).norms()
    p = np.where(p > gate.threshold, p, 0.0)
    if gate.top_k:
        smallest_kept = np.partition(p, -gate.top_k, axis=1)[:, -gate.top_k, None]
        p = np.where(p >= smallest_kept, p, 0.0)
    return p


def decode_all(encoder: Encoder, x: Doubles, activations: Doubles) -> Doubles:
    """What they make of the tokens x, in the units of x, [tokens, inputs]."""
    decoder = _decoder(encoder)
    if encoder.rescaled_by_decoder:
        activations = activations / decoder.norms()
    out = np.zeros(x.shape)
    for start, block in decoder.file.blocks(decoder.name):
        part = slice(start, start + len(block))
        if decoder.features_first:
            out += activations[:, part] @ block
        else:
            out[:, part] = activations @ block.T
    out += first_vector(encoder.file, *_DECODER_BIASES)
    centre, scale = _normalisation(encoder, x)
    return out / scale + centre


def _normalisation(encoder: Encoder, x: Doubles) -> tuple[Doubles, Doubles]:
    """What is taken off each token, and by what the rest is multiplied, [tokens, 1] each."""
    factor = 1.0 if encoder.input_factor is None else encoder.input_factor
    centre = np.zeros((len(x), 1))
    if encoder.norm == "layer_norm":
        centre = x.mean(axis=1, keepdims=True)
    return centre, input_scales(x)[:, [NORMS.index(encoder.norm)]] * factor


def _decoder(encoder: Encoder) -> Matrix:
    if encoder.decoder is None:
        raise ConfigError(f"{encoder.file.path}: has no decoder")
    return encoder.decoder
