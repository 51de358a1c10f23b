"""Llama Scope: `hyperparams.json` with `checkpoints/final.safetensors`, and the later series with
`config.json` and `sae_weights.safetensors`. Read as sae-lens reads them.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from saeguard.integrations.saelens.encoder import Encoder, Gate, Matrix, jump_relu
from saeguard.integrations.saelens.files import read_json
from saeguard.integrations.saelens.tensors import TensorFile, open_tensors
from saeguard.monitor.errors import CompileError

_FINAL = Path("checkpoints") / "final.safetensors"


def matches(path: Path) -> bool:
    return (path / "hyperparams.json").is_file()


def matches_later(path: Path) -> bool:
    return (path / "config.json").is_file() and (path / "sae_weights.safetensors").is_file()


def read(path: Path) -> Encoder:
    """Activations are multiplied by sqrt(d_model) / (their average norm); so is the threshold.

    Raises:
        CompileError: it is not as in the release.
    """
    config = read_json(path / "hyperparams.json")
    _check(path, config)
    factor = math.sqrt(config["d_model"]) / config["dataset_average_activation_norm"]["in"]
    file = open_tensors(path / _FINAL)
    gate = jump_relu(
        file.vector("encoder.bias"), np.array([config["jump_relu_threshold"] * factor])
    )
    return _encoder("Llama Scope", file, config, gate, factor)


def read_later(path: Path) -> Encoder:
    """The factor that activations are multiplied by is not among the files.

    Raises:
        CompileError: it is not as in the release.
    """
    config = read_json(path / "config.json")
    _check(path, config)
    file = open_tensors(path / "sae_weights.safetensors")
    thresholds = np.exp(file.vector("log_jumprelu_threshold"))
    gate = jump_relu(file.vector("encoder.bias"), thresholds)
    return _encoder("Llama Scope R1", file, config, gate, None)


def _check(path: Path, config: dict[str, Any]) -> None:
    wanted = {
        "act_fn": "jumprelu",
        "norm_activation": "dataset-wise",
        "apply_decoder_bias_to_pre_encoder": False,
    }
    for key, value in wanted.items():
        if config.get(key, value) != value:
            raise CompileError(f"{path}: {key} {config[key]!r} is not known in Llama Scope")


def _encoder(
    layout: str, file: TensorFile, config: dict[str, Any], gate: Gate, factor: float | None
) -> Encoder:
    return Encoder(
        layout=layout,
        architecture="jumprelu",
        file=file,
        hook_name=config["hook_point_in"],
        weights=Matrix(file, "encoder.weight", features_first=True),
        gate=gate,
        decoder=Matrix.if_there(file, "decoder.weight", features_first=False),
        input_factor=factor,
    )
