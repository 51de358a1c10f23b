"""`saeguard compile`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from saeguard.monitor.cli.options import RuleItems
from saeguard.monitor.compile import compile_watchlist
from saeguard.monitor.config import read_rules
from saeguard.monitor.watchlist import save


def compile_(
    rules: RuleItems,
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")] = Path(
        "watch.safetensors"
    ),
    sample: Annotated[
        Path | None,
        typer.Option(
            help="Activations of the model, [tokens, inputs] by hook point in a safetensors file: "
            "thresholds that stand in for TopK are found and measured on them."
        ),
    ] = None,
) -> None:
    """Read the SAE rows and probes that the rules use, and write them as one watchlist."""
    watchlist = compile_watchlist(read_rules(rules), sample)
    save(watchlist, output)
    for site in watchlist.sites:
        names = ", ".join(feature.name for feature in site.features)
        print(f"{site.hook_point}: {names}")
        for feature in site.features:
            if not feature.exact:
                print(f"  {feature.name} is approximate: {feature.inexact_reason}")
    d_model = "" if watchlist.d_model is None else f"d_model {watchlist.d_model}, "
    print(f"wrote {output}: {d_model}digest {watchlist.digest[:12]}")
