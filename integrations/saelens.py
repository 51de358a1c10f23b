"""Read the watched rows of a sae-lens directory (`cfg.json` + `sae_weights.safetensors`).

sae-lens itself is not needed: only the named columns of the encoder are read from the file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from saeguard.monitor.compile import FeatureRow
from saeguard.monitor.errors import CompileError, UnsupportedError
from saeguard.monitor.sites import HookPoint
from saeguard.rules import Feature, SaeFeature

_EXACT = ("jumprelu", "standard")

Doubles = npt.NDArray[np.float64]


def read_features(features: Sequence[Feature]) -> list[FeatureRow]:
    """The rows of the given features, all of one SAE directory, in the order given.

    The encoder of an affine SAE is
    `p_i = (x - b_dec * apply_b_dec_to_input) @ W_enc[:, i] + b_enc[i]`; the part of `b_dec` is
    folded into the bias in float64.

    Raises:
        CompileError: the directory, its architecture or a feature index cannot be used.
    """
    source = features[0].source
    assert isinstance(source, SaeFeature)
    config = _read_config(source.path)
    hook_point = _hook_point(source, config)
    weights_path = source.path / "sae_weights.safetensors"
    if not weights_path.is_file():
        raise CompileError(f"{source.path}: no sae_weights.safetensors in this SAE directory")
    digest = hashlib.sha256(weights_path.read_bytes()).hexdigest()
    try:
        with safe_open(weights_path, framework="numpy") as file:
            encoder = file.get_slice("W_enc")
            _, d_sae = encoder.get_shape()
            b_enc = file.get_tensor("b_enc").astype(np.float64)
            b_dec = file.get_tensor("b_dec").astype(np.float64)
            thresholds = _thresholds(file, config, d_sae)
            decoder = file.get_slice("W_dec")
            rows = []
            for feature in features:
                index = _index(feature, d_sae)
                column = encoder[:, index : index + 1][:, 0].astype(np.float64)
                bias = b_enc[index] - (
                    b_dec @ column if config.get("apply_b_dec_to_input") else 0.0
                )
                scale = 1.0
                if (
                    feature.units == "neuronpedia"
                ):  # dashboards fold the decoder norm into the activation
                    scale = float(np.linalg.norm(decoder[index : index + 1, :].astype(np.float64)))
                rows.append(
                    FeatureRow(
                        hook_point=hook_point,
                        weight=column * scale,
                        bias=bias * scale,
                        threshold=thresholds[index] * scale,
                        source_sha256=digest,
                        index=index,
                    )
                )
            return rows
    except (SafetensorError, KeyError) as error:
        raise CompileError(f"{weights_path}: not the weights of a sae-lens SAE: {error}") from error


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_dir():
        raise CompileError(
            f"{path}: no such SAE directory", "sae.path is relative to the rules file"
        )
    try:
        config: dict[str, Any] = json.loads((path / "cfg.json").read_text())
    except (OSError, ValueError) as error:
        raise CompileError(f"{path}: cfg.json cannot be read: {error}") from error
    architecture = config.get("architecture")
    if architecture not in _EXACT:
        raise CompileError(
            f"{path}: architecture {architecture!r} is not supported yet",
            f"use one of {', '.join(_EXACT)}",
        )
    normalize = config.get("normalize_activations", "none")
    if normalize != "none":
        raise CompileError(
            f"{path}: normalize_activations {normalize!r} is not supported yet",
            "fold the scaling into the weights and save with 'none'",
        )
    return config


def _hook_point(source: SaeFeature, config: dict[str, Any]) -> HookPoint:
    name = (config.get("metadata") or {}).get("hook_name") or config.get("hook_name")
    if not name:
        if source.layer is None:
            raise CompileError(
                f"{source.path}: cfg.json has no hook_name",
                "give sae.layer, if it reads the residual stream after that layer",
            )
        return HookPoint(source.layer)
    try:
        hook_point = HookPoint.parse(name)
    except UnsupportedError as error:
        raise CompileError(f"{source.path}: {error.message}", error.remedy) from error
    if source.layer not in (None, hook_point.layer):
        raise CompileError(
            f"{source.path}: the rules say layer {source.layer}, cfg.json says {name!r}"
        )
    return hook_point


def _thresholds(file: Any, config: dict[str, Any], d_sae: int) -> Doubles:
    if config["architecture"] == "standard":
        return np.zeros(d_sae)
    # JumpReLU is relu(p) * (p > threshold): below zero the ReLU decides.
    thresholds: Doubles = np.maximum(file.get_tensor("threshold").astype(np.float64), 0.0)
    return thresholds


def _index(feature: Feature, d_sae: int) -> int:
    index = getattr(feature.source, "index", -1)
    if not 0 <= index < d_sae:
        raise CompileError(
            f"feature {feature.name!r}: index {index} is outside the {d_sae} features of this SAE"
        )
    return int(index)
