"""`saeguard compile`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from saeguard.monitor.cli.options import RuleItems
from saeguard.monitor.compile import compile_watchlist
from saeguard.monitor.config import read_rules
from saeguard.monitor.feature_labels import newest, read_labels
from saeguard.monitor.watchlist import save
from saeguard.rules.quantity import quantity


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
    labels: Annotated[
        Path | None,
        typer.Option(
            help="Neuronpedia's export of explanations, .jsonl, .jsonl.gz or a folder of them: "
            "labels for features to which the rules give none."
        ),
    ] = None,
) -> None:
    """Read the SAE rows and probes that the rules use, and write them as one watchlist."""
    watchlist = compile_watchlist(
        read_rules(rules), sample, newest(read_labels(labels)) if labels else None
    )
    save(watchlist, output)
    head_rows = watchlist.head_rows
    for site in watchlist.sites:
        names = [feature.name for feature in site.features if feature.name not in head_rows]
        num_rows = len(site.features) - len(names)
        of_heads = f" (and {quantity(num_rows, 'row')} of probes with heads)" if num_rows else ""
        print(f"{site.hook_point}: {', '.join(names)}{of_heads}")
        for feature in site.features:
            if not feature.exact:
                print(f"  {feature.name} is approximate: {feature.inexact_reason}")
    if labels:
        watched = [feature for site in watchlist.sites for feature in site.features]
        num_labelled = sum(feature.label_source != "" for feature in watched)
        print(
            f"{num_labelled} of {len(watchlist.features)} features have their label from {labels}"
        )
    d_model = "" if watchlist.d_model is None else f"d_model {watchlist.d_model}, "
    print(f"wrote {output}: {d_model}digest {watchlist.digest[:12]}")
