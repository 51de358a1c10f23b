"""EleutherAI's sparsify: `cfg.json` and `sae.safetensors`, in a folder named after the module whose
output is read, or input where it is a transcoder.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from saeguard.integrations.saelens.encoder import Encoder, Matrix, top_k
from saeguard.integrations.saelens.files import first_vector, read_json
from saeguard.integrations.saelens.tensors import TensorFile, open_tensors
from saeguard.monitor.errors import CompileError

_FOLDER = re.compile(r"(?:.*[._])?(?:layers|h)[._](\d+)(?:[._](\w+))?")
_OUTPUTS = {
    None: "blocks.{}.hook_resid_post",
    "mlp": "blocks.{}.hook_mlp_out",
    "attn": "blocks.{}.hook_attn_out",
    "self_attn": "blocks.{}.hook_attn_out",
}


def matches(path: Path) -> bool:
    return (path / "sae.safetensors").is_file()


def read(path: Path) -> Encoder:
    """
    Raises:
        CompileError: the SAE cannot be read as rows; it says why.
    """
    config = read_json(path / "cfg.json")
    activation = config.get("activation", "topk")
    if activation != "topk":
        raise CompileError(
            f"{path}: activation {activation!r} cannot be watched row by row: it keeps the largest "
            "of each group of features"
        )
    if config.get("signed"):
        raise CompileError(
            f"{path}: signed TopK cannot be watched row by row: it keeps the features of the "
            "largest size, negative ones too"
        )
    is_transcoder = bool(config.get("transcode"))
    file = open_tensors(path / "sae.safetensors")
    if "W_enc" in file.shapes:  # the first releases
        weights = Matrix(file, "W_enc", features_first=False)
    else:
        weights = Matrix(file, "encoder.weight", features_first=True)
    if "encoder.bias" in file.shapes or "b_enc" in file.shapes:
        b_enc = first_vector(file, "encoder.bias", "b_enc")
    else:
        b_enc = np.zeros(weights.shape[0])
    return Encoder(
        layout="sparsify",
        architecture="topk",
        file=file,
        hook_name=_hook_name(path.name, is_transcoder),
        weights=weights,
        gate=top_k(b_enc, int(config.get("k") or 0)),
        # By sparsify's own definition: sae-lens' loader goes by `normalize_decoder` instead.
        b_dec=None if is_transcoder else _b_dec(file),
        decoder=Matrix.if_there(file, "W_dec", features_first=True),
    )


def _b_dec(file: TensorFile) -> np.ndarray | None:
    names = [name for name in ("b_dec", "decoder.bias") if name in file.shapes]
    return file.vector(names[0]) if names else None


def _hook_name(folder: str, is_transcoder: bool) -> str | None:
    if folder == "embed_tokens":
        return "hook_embed"
    match = _FOLDER.fullmatch(folder)
    if match is None:
        return None
    if is_transcoder and match[2] == "mlp":
        return f"blocks.{match[1]}.mlp.hook_in"
    known = None if is_transcoder else _OUTPUTS.get(match[2])
    return known.format(match[1]) if known else folder
