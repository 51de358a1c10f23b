"""SAEs in PyTorch's own files: Qwen-Scope, Goodfire, and dictionary_learning."""

from __future__ import annotations

from pathlib import Path

from saeguard.integrations.saelens.encoder import (
    Encoder,
    Gate,
    Matrix,
    gated,
    jump_relu,
    relu,
    top_k,
)
from saeguard.integrations.saelens.files import first_vector, number_after, read_json
from saeguard.integrations.saelens.tensors import TensorFile, open_tensors
from saeguard.monitor.errors import CompileError

_RESIDUAL = "blocks.{}.hook_resid_post"


def matches_dictionary_learning(path: Path) -> bool:
    return (path / "ae.pt").is_file()


def matches_one_file(path: Path) -> bool:
    return path.is_file() and path.suffix in (".pt", ".pth")


def read_one_file(path: Path) -> Encoder:
    """Qwen-Scope's file of a layer, or Goodfire's.

    Raises:
        CompileError: it is neither.
    """
    file = open_tensors(path)
    if "encoder_linear.weight" in file.shapes:
        return _goodfire(file)
    if {"W_enc", "b_enc"} <= set(file.shapes):
        return _qwen_scope(file)
    raise CompileError(
        f"{path}: is neither of Goodfire's layout, with encoder_linear.weight, nor of Qwen-Scope's,"
        " with W_enc and b_enc"
    )


def _goodfire(file: TensorFile) -> Encoder:
    layer = number_after(r"-l(\d+)(?=\D|$)", file.path.stem.lower())
    return Encoder(
        layout="Goodfire",
        architecture="standard",
        file=file,
        hook_name=None if layer is None else _RESIDUAL.format(layer),
        weights=Matrix(file, "encoder_linear.weight", features_first=True),
        gate=relu(file.vector("encoder_linear.bias")),
        decoder=Matrix.if_there(file, "decoder_linear.weight", features_first=False),
    )


def _qwen_scope(file: TensorFile) -> Encoder:
    layer = number_after(r"layer(\d+)\.sae\.pt$", file.path.name)
    k = number_after(r"L0_(\d+)", file.path.as_posix())
    return Encoder(
        layout="Qwen-Scope",
        architecture="topk",
        file=file,
        hook_name=None if layer is None else _RESIDUAL.format(layer),
        weights=Matrix(file, "W_enc", features_first=True),
        gate=top_k(file.vector("b_enc"), k or 0),
        decoder=Matrix.if_there(file, "W_dec", features_first=False),
    )


def read_dictionary_learning(path: Path) -> Encoder:
    """
    Raises:
        CompileError: the SAE cannot be read as rows; it says why.
    """
    trainer = read_json(path / "config.json").get("trainer") or {}
    file = open_tensors(path / "ae.pt")
    kind = str(trainer.get("dict_class"))
    # Only JumpReluAutoEncoder and AutoEncoderNew leave the input as it is.
    subtracts = kind not in ("JumpReluAutoEncoder", "AutoEncoderNew")
    is_own = "W_enc" in file.shapes  # else it is made of torch's Linear
    return Encoder(
        layout="dictionary_learning",
        architecture=kind,
        file=file,
        hook_name=_hook_name(trainer),
        weights=Matrix(file, "W_enc" if is_own else "encoder.weight", features_first=not is_own),
        gate=_gate(file, kind, int(trainer.get("k") or 0)),
        b_dec=first_vector(file, "b_dec", "bias", "decoder_bias") if subtracts else None,
        decoder=Matrix.if_there(
            file,
            "W_dec" if "W_dec" in file.shapes else "decoder.weight",
            features_first="W_dec" in file.shapes,
        ),
    )


def _hook_name(trainer: dict[str, object]) -> str | None:
    module = str(trainer.get("submodule_name") or "resid_post")
    layer = trainer.get("layer")
    if not isinstance(layer, int):
        return None
    if module.startswith("resid_post"):
        return _RESIDUAL.format(layer)
    return f"{module} of layer {layer}"


def _gate(file: TensorFile, kind: str, k: int) -> Gate:
    if kind == "GatedAutoEncoder":
        return gated(file.vector("gate_bias"), file.vector("mag_bias"), file.vector("r_mag"))
    b_enc = first_vector(file, "encoder.bias", "b_enc")
    if kind in ("AutoEncoder", "AutoEncoderNew"):
        return relu(b_enc)
    if kind == "AutoEncoderTopK":
        threshold = file.vector("threshold")[0] if "threshold" in file.shapes else 0.0
        return top_k(b_enc, k, float(threshold))
    if kind in ("BatchTopKSAE", "MatryoshkaBatchTopKSAE", "JumpReluAutoEncoder"):
        thresholds = file.vector("threshold")
        if kind != "JumpReluAutoEncoder" and (thresholds < 0).any():
            raise CompileError(
                f"{file.path}: its threshold was never set, so that only a whole batch would tell "
                "what is active"
            )
        return jump_relu(b_enc, thresholds)
    raise CompileError(f"{file.path}: dict_class {kind!r} is not known")
