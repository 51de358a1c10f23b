"""Arguments that the commands share which start vLLM."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[str, typer.Argument(help="What you would give to `vllm serve`.")]
VllmArgs = Annotated[
    list[str] | None, typer.Argument(metavar="[-- VLLM ARGS]", help="As `vllm serve` gets them.")
]
Rules = Annotated[
    list[str] | None, typer.Option(help="A rule file, a directory or pack:NAME; may be repeated.")
]
ConfigFile = Annotated[Path | None, typer.Option(help="A saeguard.yaml, instead of --rules.")]
