"""`saeguard directions`: published directions as probes."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from saeguard.integrations.probes.directions import Place, read_direction
from saeguard.integrations.probes.file import Linear, Probe, write_probe_file
from saeguard.monitor.errors import CompileError
from saeguard.monitor.sites import HookPoint

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Published directions as probes."
)


@app.callback()
def directions() -> None:
    """Published directions as probes."""


@app.command("import")
def import_(
    file: Annotated[
        Path,
        typer.Argument(
            help="A vector: .pt, .npy or .safetensors with [d_model], [layers, d_model] or "
            "[positions, layers, d_model]."
        ),
    ],
    site: Annotated[str, typer.Option(help="Where it is read: blocks.17.hook_resid_post.")],
    name: Annotated[str, typer.Option(help="What the probe is to be called.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The probe file to write.")] = Path(
        "probe.safetensors"
    ),
    key: Annotated[str | None, typer.Option(help="Of the tensor, where there are several.")] = None,
    layer: Annotated[int | None, typer.Option(help="Which, as the tensor counts them.")] = None,
    position: Annotated[
        int | None, typer.Option(help="Which, as the tensor counts them; -1 is the last.")
    ] = None,
    normalise: Annotated[
        bool, typer.Option("--normalise", help="Make it a unit vector: the score is a projection.")
    ] = False,
    threshold: Annotated[
        float | None,
        typer.Option(help="Of the score: what is above it becomes a score above 0."),
    ] = None,
) -> None:
    """Make a linear probe of a direction, such as a difference of means: score = direction · x."""
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,63}", name):
        raise CompileError(f"--name {name!r} is no name of a feature", "use snake_case")
    if threshold is not None and not np.isfinite(threshold):
        raise CompileError(f"--threshold {threshold} is no number that a score can be above")
    hook_point = HookPoint.parse(site)
    place = Place(key, layer, position)
    weight = read_direction(file, place)
    norm = float(np.linalg.norm(weight))
    if normalise:
        weight = weight / norm
    bias = np.array([-(threshold or 0.0)])
    about = {
        "direction": {
            "file": file.name,
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            "key": key,
            "layer": layer,
            "position": position,
            "normalised": normalise,
            "norm": norm,
            "threshold": threshold,
        }
    }
    probe = Probe(Linear(), {"weight": weight, "bias": bias})
    write_probe_file(output, hook_point, {name: probe}, about)
    unit = ", made a unit vector" if normalise else ""
    print(f"wrote {output}: {name} at {hook_point}, {len(weight)} numbers of norm {norm:.4g}{unit}")
    print(_snippet(name, output, threshold))


def _snippet(name: str, output: Path, threshold: float | None) -> str:
    """What a rule file needs to use it."""
    remark = "" if threshold is not None else "  # a guess: see docs/thresholds.md"
    return f"""
features:
  {name}: {{probe: {{path: {json.dumps(output.name)}}}}}  # relative to the rule file

signals:  # of a rule
  high: {{feature: {name}, agg: mean, window: 8 tokens, gt: 0}}{remark}
condition: high"""
