"""From an SAE's encoder to the rows of the features that are watched."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from saeguard.integrations.saelens.calibrate import Agreement, Sample, calibrate, read_sample
from saeguard.integrations.saelens.encoder import Encoder
from saeguard.integrations.saelens.layouts import open_encoder
from saeguard.integrations.saelens.tensors import Doubles
from saeguard.monitor.compile import FeatureRow
from saeguard.monitor.errors import CompileError, UnsupportedError
from saeguard.monitor.sites import HookPoint
from saeguard.rules import Feature, SaeFeature


def read_features(features: Sequence[Feature], sample: Path | None = None) -> list[FeatureRow]:
    """The rows of the given features, all of one SAE, in the order given.

    Args:
        sample: activations to find the threshold of a TopK SAE on, and measure it.

    Raises:
        CompileError: the SAE, a feature's index or the sample cannot be used.
    """
    source = features[0].source
    assert isinstance(source, SaeFeature)
    encoder = open_encoder(source.path, source.layer)
    hook_point = _hook_point(source, encoder)
    indices = [_index(feature, encoder) for feature in features]
    with encoder.file.path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    factor = _input_factor(source, encoder)
    weights = _folded(encoder, indices, factor)
    scales = _scales(encoder, features, indices)
    gate = encoder.gate
    thresholds, reasons = gate.threshold[indices] * scales, [""] * len(indices)
    if gate.top_k is not None:
        reasons = [_inexact_reason(gate.top_k)] * len(indices)
    if gate.top_k is not None and sample is not None:
        activations = read_sample(sample, hook_point)
        threshold, agreements = calibrate(encoder, factor, indices, activations)
        thresholds = np.full(len(indices), threshold)
        reasons = [f"{reasons[0]}; {_measured(a, threshold, activations)}" for a in agreements]
    rows = []
    for feature, index, (weight, shift), scale, threshold, reason in zip(
        features, indices, weights, scales, thresholds, reasons, strict=True
    ):
        row = FeatureRow(
            hook_point=hook_point,
            weight=weight * scale,
            bias=(gate.bias[index] + shift) * scale,
            threshold=float(threshold),
            source_sha256=digest,
            index=index,
            norm=encoder.norm,
            inexact_reason=reason,
            neuronpedia=source.neuronpedia or encoder.neuronpedia_id or "",
        )
        if not (np.isfinite(row.weight).all() and np.isfinite([row.bias, row.threshold]).all()):
            raise CompileError(
                f"feature {feature.name!r}: row {index} of {encoder.file.path} holds numbers that "
                "are not finite"
            )
        rows.append(row)
    return rows


def _folded(encoder: Encoder, indices: Sequence[int], factor: float) -> list[tuple[Doubles, float]]:
    """Of each feature the row on the raw input, up to a scale of each token, and what the decoder's
    bias takes off.

    What multiplies a row is rounded to fp32 where sae-lens rounds it, so that both decide by the
    same weights.
    """
    folded = []
    for index, row in zip(indices, encoder.weights.rows(indices), strict=True):
        slope = float(encoder.gate.slope[index])
        shift = 0.0 if encoder.b_dec is None else -slope * float(encoder.b_dec @ row)
        with np.errstate(over="ignore"):  # what is not finite is refused by the caller
            single = row.astype(np.float32) * np.float32(factor) * np.float32(slope)
        row = single.astype(np.float64)
        if encoder.norm == "layer_norm":  # x loses its mean: so may the row instead
            row -= row.mean()
        folded.append((row, shift))
    return folded


def _scales(encoder: Encoder, features: Sequence[Feature], indices: Sequence[int]) -> Doubles:
    """What turns the activations into the features' units."""
    by_decoder = [
        # Dashboards fold the decoder's norm into the activation, but not of TopK, where that would
        # choose other features.
        encoder.rescaled_by_decoder or (f.units == "neuronpedia" and encoder.gate.top_k is None)
        for f in features
    ]
    if not any(by_decoder):
        return np.ones(len(indices))
    if encoder.decoder is None:
        raise CompileError(
            f"{encoder.file.path}: has no decoder whose norm would make neuronpedia units",
            "units: raw",
        )
    norms = np.linalg.norm(encoder.decoder.rows(indices), axis=1)
    return np.where(by_decoder, norms, 1.0)


def _inexact_reason(k: int) -> str:
    kept = f"the {k} largest of all features" if k else "the largest of all features"
    return f"TopK keeps {kept} of a token, which a row alone cannot tell"


def _measured(agreement: Agreement, threshold: float, sample: Sample) -> str:
    on = f"on {len(sample.x):,} tokens of {sample.name}"
    if agreement.num_fired == 0:
        return f"it was not kept {on}, so that a threshold of {threshold:.4g} is untried"
    found = agreement.num_found / agreement.num_fired
    right = agreement.num_found / max(agreement.num_claimed, 1)
    return (
        f"{on} a threshold of {threshold:.4g} finds {found:.0%} of the {agreement.num_fired:,} "
        f"times that it was kept, and is right {right:.0%} of the time"
    )


def _input_factor(source: SaeFeature, encoder: Encoder) -> float:
    if encoder.input_factor is not None:
        if source.norm_scaling_factor is not None:
            raise CompileError(
                f"{source.path}: the rules give sae.norm_scaling_factor, and this SAE needs none: "
                "its files say how it scales its input",
                "leave it out",
            )
        return encoder.input_factor
    if source.norm_scaling_factor is None:
        raise CompileError(
            f"{source.path}: normalize_activations 'expected_average_only_in' needs its factor, "
            "which is not among its files",
            "give sae.norm_scaling_factor, as in sae-lens' pretrained_saes.yaml, or save the SAE "
            "folded, with normalize_activations 'none'",
        )
    return source.norm_scaling_factor


def _hook_point(source: SaeFeature, encoder: Encoder) -> HookPoint:
    if encoder.hook_name is None:
        if source.layer is None:
            raise CompileError(
                f"{source.path}: its files do not say where the {encoder.layout} SAE is read",
                "give sae.layer, if it reads the residual stream after that layer",
            )
        return HookPoint(source.layer)
    try:
        hook_point = HookPoint.parse(encoder.hook_name)
    except UnsupportedError as error:
        raise CompileError(f"{source.path}: {error.message}", error.remedy) from error
    if source.layer not in (None, hook_point.layer):
        raise CompileError(
            f"{source.path}: the rules say layer {source.layer}, the SAE says {encoder.hook_name!r}"
        )
    return hook_point


def _index(feature: Feature, encoder: Encoder) -> int:
    index = getattr(feature.source, "index", -1)
    num_features = encoder.weights.shape[0]
    if not 0 <= index < num_features:
        raise CompileError(
            f"feature {feature.name!r}: index {index} is outside the {num_features} features of "
            "this SAE"
        )
    return int(index)
