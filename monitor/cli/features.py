"""`saeguard features`: find features by what they are said to mean."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from saeguard.monitor.feature_labels import newest, read_labels

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Features of SAEs, by their labels."
)


@app.callback()
def features() -> None:
    """Features of SAEs, by their labels."""


@app.command()
def search(
    words: Annotated[str, typer.Argument(help="All of them must be in the label.")],
    labels: Annotated[
        Path,
        typer.Option(
            help="An export of Neuronpedia's explanations: .jsonl, .jsonl.gz, or a folder."
        ),
    ],
    limit: Annotated[int, typer.Option(min=1, help="How many to show.")] = 20,
) -> None:
    """Search labels, which are guesses: what a feature means has to be measured."""
    wanted = words.lower().split()
    found = [
        label for label in read_labels(labels) if all(word in label.text.lower() for word in wanted)
    ]
    # Of labels that have the words, the short ones are about little else.
    found = sorted(
        newest(found).values(), key=lambda label: (len(label.text), label.sae, label.index)
    )
    for label in found[:limit]:
        how = ", ".join(filter(None, [label.method, label.date]))
        print(f"{label.sae}/{label.index}  {label.text}{f'  ({how})' if how else ''}")
    if len(found) > limit:
        print(f"and {len(found) - limit} more: --limit {len(found)}")
    if not found:
        print(f"no label in {labels} has {words!r}")
        raise typer.Exit(1)
