"""`saeguard packs`: the shipped rules, and how to bind them to a model."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from saeguard.monitor.errors import ConfigError
from saeguard.rules import RuleErrors
from saeguard.rules.mappings import packs, read_pack, template

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Rules that come with saeguard.")


class Release(StrEnum):
    """SAEs that there are notes on."""

    GEMMA_SCOPE_2 = "gemma-scope-2"
    GOODFIRE = "goodfire"
    LLAMA_SCOPE = "llama-scope"
    QWEN_SCOPE = "qwen-scope"


@app.command("list")
def list_() -> None:
    """List the packs: their rules, and the features that they need."""
    for pack in packs():
        print(f"pack:{pack.name}")
        for title in pack.titles:
            print(f"  {title}")
        print(f"  needs {', '.join(pack.needs)}")


@app.command()
def mapping(
    names: Annotated[list[str], typer.Argument(metavar="PACKS", help="Such as deception.")],
    sae: Annotated[Release, typer.Option(help="The SAEs to take notes on into the file.")],
) -> None:
    """Print a mapping file for packs, to be filled in."""
    try:
        chosen = [read_pack(name.removeprefix("pack:")) for name in dict.fromkeys(names)]
    except RuleErrors as error:
        raise ConfigError(error.errors[0].message) from error
    print(template(sae, chosen), end="")
