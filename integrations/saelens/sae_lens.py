"""sae-lens' own layout: `cfg.json` and `sae_weights.safetensors`. sae-lens itself is not needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from saeguard.integrations.saelens.encoder import (
    Encoder,
    Gate,
    Matrix,
    gated,
    jump_relu,
    relu,
    top_k,
)
from saeguard.integrations.saelens.files import read_json
from saeguard.integrations.saelens.tensors import Doubles, TensorFile, open_tensors
from saeguard.monitor.errors import CompileError
from saeguard.monitor.watchlist import Norm

LAYOUT = "sae-lens"
WEIGHTS = "sae_weights.safetensors"

_ARCHITECTURES = ("standard", "jumprelu", "gated", "topk")
_TRANSCODERS = ("transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder")
_REFUSED = {
    "abstopk": "it keeps the features of the largest size, negative ones too, which a row "
    "alone cannot tell",
    "temporal": "it attends to the codes of all earlier tokens, which no row has",
    "matching_pursuit": "it chooses features one after another, each by what the last has left",
    "batchtopk": "it is a training checkpoint: save_inference_model makes a jumprelu of it",
    "matryoshka_batchtopk": "it is a training checkpoint: save_inference_model makes a jumprelu "
    "of it",
}
_RUN_TIME_NORMS: dict[str, Norm] = {
    "none": "none",
    "constant_norm_rescale": "constant_norm_rescale",
    "layer_norm": "layer_norm",
}


def matches(path: Path) -> bool:
    return (path / "cfg.json").is_file() and not (path / "sae.safetensors").is_file()


def read(path: Path) -> Encoder:
    """
    Raises:
        CompileError: the SAE cannot be read as rows; it says why.
    """
    config = _flat(read_json(path / "cfg.json"))
    architecture = _architecture(path, config)
    file = open_tensors(path / WEIGHTS)
    is_transcoder = architecture in _TRANSCODERS
    subtracts = config["apply_b_dec_to_input"] and not is_transcoder
    norm, factor = _normalisation(path, config["normalize_activations"])
    return Encoder(
        layout=LAYOUT,
        architecture=architecture,
        file=file,
        hook_name=config.get("hook_name"),
        weights=Matrix(file, "W_enc", features_first=False),
        gate=_gate(file, architecture, config),
        b_dec=file.vector("b_dec") if subtracts else None,
        decoder=Matrix.if_there(file, "W_dec", features_first=True),
        norm=norm,
        input_factor=factor,
        rescaled_by_decoder=architecture == "topk"
        and bool(config.get("rescale_acts_by_decoder_norm")),
        neuronpedia_id=str(config.get("neuronpedia_id") or "") or None,
    )


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration of any version as one table, with the defaults of its time."""
    metadata = config.get("metadata") or {}
    flat = {**metadata, **{key: value for key, value in config.items() if key != "metadata"}}
    renamed = {"hook_point": "hook_name", "hook_point_head_index": "hook_head_index"}
    flat = {renamed.get(key, key): value for key, value in flat.items()}
    flat.setdefault("architecture", "standard")
    flat.setdefault("apply_b_dec_to_input", True)
    activation = flat.get("activation_fn_str") or flat.get("activation_fn") or "relu"
    if activation == "topk":
        flat["architecture"] = "topk"
        flat.setdefault("k", (flat.get("activation_fn_kwargs") or {}).get("k"))
    flat["activation"] = activation
    normalize = flat.get("normalize_activations")
    if isinstance(normalize, bool) or normalize is None:  # before 6.0
        normalize = "expected_average_only_in" if normalize else "none"
    flat["normalize_activations"] = normalize
    return flat


def _architecture(path: Path, config: dict[str, Any]) -> str:
    architecture = config["architecture"]
    if architecture in _REFUSED:
        raise CompileError(
            f"{path}: an SAE of architecture {architecture!r} cannot be watched row by row: "
            f"{_REFUSED[architecture]}"
        )
    if architecture not in (*_ARCHITECTURES, *_TRANSCODERS):
        raise CompileError(
            f"{path}: architecture {architecture!r} is not known",
            f"these are: {', '.join((*_ARCHITECTURES, *_TRANSCODERS))}",
        )
    if config["activation"] not in ("relu", "topk"):
        raise CompileError(f"{path}: activation function {config['activation']!r} is not known")
    if config.get("hook_head_index") is not None:
        raise CompileError(
            f"{path}: reads head {config['hook_head_index']} of {config.get('hook_name')!r} alone, "
            "and single heads cannot be watched"
        )
    return str(architecture)


def _normalisation(path: Path, name: str) -> tuple[Norm, float | None]:
    if name == "expected_average_only_in":
        return "none", None
    if name == "covariance_whitening":
        raise CompileError(
            f"{path}: normalize_activations 'covariance_whitening' is not folded into the weights",
            "fold it with sae-lens' fold_activation_whitening, as its trainer does, and save again",
        )
    if name not in _RUN_TIME_NORMS:
        raise CompileError(f"{path}: normalize_activations {name!r} is not known")
    return _RUN_TIME_NORMS[name], 1.0


def _gate(file: TensorFile, architecture: str, config: dict[str, Any]) -> Gate:
    if architecture == "gated":
        return gated(file.vector("b_gate"), file.vector("b_mag"), file.vector("r_mag"))
    b_enc = file.vector("b_enc")
    if architecture.startswith("jumprelu"):
        return jump_relu(b_enc, _thresholds(file))
    if architecture == "topk":
        return top_k(b_enc, int(config.get("k") or 0))
    return relu(b_enc)


def _thresholds(file: TensorFile) -> Doubles:
    """Of JumpReLU; older checkpoints have their logarithms."""
    if "log_threshold" in file.shapes:
        return np.exp(file.vector("log_threshold"))
    return file.vector("threshold")
