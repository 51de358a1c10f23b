"""Weights on disk: a checkpoint in one file or in shards, or a LoRA adapter. No model is loaded;
matrices are read some rows at a time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from saeguard.integrations.saelens.files import read_json
from saeguard.integrations.saelens.tensors import Safetensors, open_tensors
from saeguard.monitor.errors import ConfigError

Floats = npt.NDArray[np.float32]
Block = tuple[int, Floats]
"""The number of its first row, and some rows."""

_INDEX = "model.safetensors.index.json"
_ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
_LORA = re.compile(r"(?:base_model\.model\.)?(.+)\.lora_(A|B)(?:\.default)?\.weight$")


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """A model's directory."""

    path: Path
    model_type: str
    tensors: dict[str, Safetensors]
    """Name -> the file that has it."""

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.tensors[name].shapes[name])

    def blocks(self, name: str) -> Iterator[Block]:
        """All rows of a matrix; a vector is a matrix of one column."""
        file = self.tensors[name]
        if len(self.shape(name)) == 1:
            yield 0, file.vector(name)[:, None].astype(np.float32)
            return
        for start, rows in file.blocks(name):
            yield start, rows.astype(np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """What LoRA adds to some matrices: scale · B · A."""

    path: Path
    file: Safetensors
    scale: float
    """alpha / r"""
    parts: dict[str, dict[str, str]]
    """Name of the matrix -> the tensors `A` [r, inputs] and `B` [outputs, r]."""

    def factors(self, name: str) -> tuple[Floats, Floats]:
        """B · scale [outputs, r], and A [r, inputs]."""
        a, b = (
            np.concatenate([block for _, block in self.file.blocks(self.parts[name][part])])
            for part in "AB"
        )
        return (b * self.scale).astype(np.float32), a.astype(np.float32)


def open_checkpoint(path: Path) -> Checkpoint:
    """
    Raises:
        SaeguardError: it is no directory of safetensors, or its weights are stored quantised.
    """
    if not path.is_dir():
        raise ConfigError(
            f"{path}: no such directory", "give a model's directory, with its *.safetensors files"
        )
    config = _config(path)
    if "quantization_config" in config:
        method = config["quantization_config"].get("quant_method", "an unknown method")
        raise ConfigError(
            f"{path}: its weights are stored quantised ({method}), which are not read",
            "give the weights dequantised, or compare by --activations",
        )
    tensors = {}
    for file in _files(path):
        for name in file.shapes:
            tensors[name] = file
    return Checkpoint(path, str(config.get("model_type", "")), tensors)


def _config(path: Path) -> dict[str, Any]:
    config = read_json(path / "config.json")
    inner = config.get("text_config")
    return config | inner if isinstance(inner, dict) else config


def _files(path: Path) -> Iterator[Safetensors]:
    if (path / _INDEX).is_file():
        names = read_json(path / _INDEX).get("weight_map")
        if not isinstance(names, dict):
            raise ConfigError(f"{path / _INDEX}: has no weight_map")
        paths = [path / str(name) for name in sorted(set(names.values()))]
    else:
        paths = sorted(path.glob("*.safetensors"))
    if not paths:
        raise ConfigError(f"{path}: holds no *.safetensors files")
    for each in paths:
        yield _open(each)


def _open(path: Path) -> Safetensors:
    file = open_tensors(path)
    assert isinstance(file, Safetensors)
    return file


def is_adapter(path: Path) -> bool:
    return (path / _ADAPTER[0]).is_file()


def open_adapter(path: Path) -> Adapter:
    """
    Raises:
        SaeguardError: it is none, or of a kind that is more than scale · B · A.
    """
    config, file = read_json(path / _ADAPTER[0]), _open(path / _ADAPTER[1])
    for key, what in (
        ("use_dora", "DoRA, which rescales whole matrices"),
        ("modules_to_save", "whole modules beside LoRA"),
        ("rank_pattern", "ranks of single modules"),
        ("alpha_pattern", "scales of single modules"),
    ):
        if config.get(key):
            raise ConfigError(
                f"{path}: has {what} ({key}), which is not read",
                "merge it into the model (merge_and_unload), and compare the two models",
            )
    parts: dict[str, dict[str, str]] = {}
    for tensor in file.shapes:
        if match := _LORA.match(tensor):
            parts.setdefault(f"{match[1]}.weight", {})[match[2]] = tensor
    parts = {name: pair for name, pair in parts.items() if len(pair) == 2}
    if not parts:
        raise ConfigError(f"{path / _ADAPTER[1]}: holds no pairs of lora_A and lora_B")
    try:
        rank, alpha = int(config["r"]), float(config["lora_alpha"])
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{path / _ADAPTER[0]}: does not say r and lora_alpha") from error
    scale = alpha / (rank**0.5 if config.get("use_rslora") else rank)
    return Adapter(path, file, scale, parts)
