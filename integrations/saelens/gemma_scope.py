"""Gemma Scope 1 (`params.npz`) and 2 (`params.safetensors`, mostly with a `config.json`).

Where an SAE is read its folder says: keep the names of the folders of the release.
"""

from __future__ import annotations

import re
from pathlib import Path

from saeguard.integrations.saelens.encoder import Encoder, Matrix, jump_relu
from saeguard.integrations.saelens.files import number_after, read_json
from saeguard.integrations.saelens.tensors import TensorFile, open_tensors
from saeguard.monitor.errors import CompileError

# Of the first release the repository's name tells, of the second a folder's.
_SITES = {
    "res": "blocks.{}.hook_resid_post",
    "att": "blocks.{}.attn.hook_z",
    "mlp": "blocks.{}.hook_mlp_out",
    "transcoders": "blocks.{}.ln2.hook_normalized",
    "resid_post": "blocks.{}.hook_resid_post",
    "attn_out": "blocks.{}.attn.hook_z",
    "mlp_out": "blocks.{}.hook_mlp_out",
    "transcoder": "blocks.{}.hook_mlp_in",
    "clt": "blocks.{}.hook_mlp_in",
}
_REPOSITORY = re.compile(r"gemma-scope-\d+b-(?:pt|it)-(res|att|mlp|transcoders)")
_FOLDER = re.compile(r"(?:^|/)(resid_post|attn_out|mlp_out|transcoder|clt)(?:_all)?(?=/)")
# What a configuration of the second release names, of Hugging Face's module of a layer.
_MODULES = {
    "output": "resid_post",
    "self_attn.o_proj.input": "attn_out",
    "post_feedforward_layernorm.output": "mlp_out",
    "pre_feedforward_layernorm.output": "transcoder",
}


def matches_first(path: Path) -> bool:
    return (path / "params.npz").is_file()


def matches_second(path: Path) -> bool:
    return (path / "params.safetensors").is_file()


def read_first(path: Path) -> Encoder:
    """
    Raises:
        CompileError: it is not as in the release.
    """
    file = open_tensors(path / "params.npz")
    where = path.as_posix()
    found = _REPOSITORY.findall(where)
    hook_name = None
    if "/embedding/" in f"{where}/":
        hook_name = "hook_embed"
    elif found:
        hook_name = _hook_name(path, found[-1])
    return _encoder("Gemma Scope", file, hook_name)


def read_second(path: Path) -> Encoder:
    """
    Raises:
        CompileError: it is not as in the release.
    """
    file = open_tensors(path / "params.safetensors")
    config = read_json(path / "config.json") if (path / "config.json").is_file() else {}
    if config.get("architecture", "jump_relu") != "jump_relu":
        raise CompileError(
            f"{path}: architecture {config['architecture']!r} is not known in Gemma Scope 2"
        )
    named = re.fullmatch(r"model\.layers\.(\d+)\.(.+)", config.get("hf_hook_point_in") or "")
    folders = _FOLDER.findall(f"{path.as_posix()}/")
    hook_name = None
    if named is not None:
        site = _SITES.get(_MODULES.get(named[2], ""))
        hook_name = site.format(named[1]) if site else named[0]
    elif folders:
        hook_name = _hook_name(path, folders[-1])
    return _encoder("Gemma Scope 2", file, hook_name)


def _hook_name(path: Path, site: str) -> str | None:
    layer = number_after(r"layer_(\d+)", path.as_posix())
    return None if layer is None else _SITES[site].format(layer)


def _encoder(layout: str, file: TensorFile, hook_name: str | None) -> Encoder:
    names = {name.lower(): name for name in file.shapes}
    return Encoder(
        layout=layout,
        architecture="jumprelu",
        file=file,
        hook_name=hook_name,
        weights=Matrix(file, names.get("w_enc", "w_enc"), features_first=False),
        gate=jump_relu(
            file.vector(names.get("b_enc", "b_enc")),
            file.vector(names.get("threshold", "threshold")),
        ),
        # A cross-layer transcoder has several, so that none is taken.
        decoder=Matrix.if_there(file, names.get("w_dec", "w_dec"), features_first=True),
    )
