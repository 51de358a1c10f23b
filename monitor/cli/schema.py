"""`saeguard schema`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from saeguard.monitor.errors import ConfigError
from saeguard.rules.loading.schema import json_schema


def schema(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write it to a file.")
    ] = None,
) -> None:
    """Print the JSON Schema of rule files, with which editors complete and check them.

    Write it next to the rules, and begin each rule file with this line for the YAML server:

    # yaml-language-server: $schema=saeguard-rules.schema.json
    """
    text = json.dumps(json_schema(), indent=2)
    if output is None:
        print(text)
        return
    try:
        output.write_text(f"{text}\n")
    except OSError as error:
        raise ConfigError(
            f"{output}: {error.strerror}", "give -o a file that can be written"
        ) from error
    print(
        f"wrote {output}; begin rule files beside it with\n"
        f"# yaml-language-server: $schema={output.name}"
    )
