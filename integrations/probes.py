"""Read linear probes: a safetensors file with `weight` [probes, d_model], `bias` [probes] and a
JSON
header `saeguard_probe` = {"hook_point" or "hook_name", "names"}. The score is the logit `x @ w +
b`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from saeguard.monitor.compile import FeatureRow
from saeguard.monitor.errors import CompileError, UnsupportedError
from saeguard.monitor.sites import HookPoint
from saeguard.rules import Feature, ProbeFeature


def read_features(features: Sequence[Feature], sample: Path | None = None) -> list[FeatureRow]:
    """The rows of the given features, all of one probe file, in the order given.

    Raises:
        CompileError: the file, its hook point or a probe's name cannot be used.
    """
    source = features[0].source
    assert isinstance(source, ProbeFeature)
    path = source.path
    if not path.is_file():
        raise CompileError(
            f"{path}: no such probe file", "probe.path is relative to the rules file"
        )
    try:
        with safe_open(path, framework="numpy") as file:
            header = json.loads((file.metadata() or {})["saeguard_probe"])
            weight, bias = file.get_tensor("weight"), file.get_tensor("bias")
    except (SafetensorError, KeyError, ValueError) as error:
        raise CompileError(f"{path}: not a probe file: {error}") from error
    names: list[str] = header.get("names", [])
    try:
        hook_point = HookPoint.parse(header.get("hook_point") or header.get("hook_name", ""))
    except UnsupportedError as error:
        raise CompileError(f"{path}: {error.message}", error.remedy) from error
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    rows = []
    for feature in features:
        name = getattr(feature.source, "name", "")
        if name not in names:
            raise CompileError(
                f"feature {feature.name!r}: {path} has no probe {name!r}",
                f"it has {', '.join(names)}",
            )
        index = names.index(name)
        rows.append(
            FeatureRow(
                hook_point=hook_point,
                weight=weight[index].astype(np.float64),
                bias=float(bias[index]),
                threshold=-np.inf,  # a probe has no gate
                source_sha256=digest,
                index=index,
            )
        )
    return rows
