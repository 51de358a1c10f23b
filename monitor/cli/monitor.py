"""`saeguard monitor`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from saeguard.monitor.config import load_config
from saeguard.monitor.errors import ConfigError
from saeguard.monitor.process import serve


def monitor(
    config: Annotated[Path, typer.Option(envvar="SAEGUARD_CONFIG", help="saeguard.yaml")],
    run_dir: Annotated[
        Path | None, typer.Option(help="Directory of the sockets; by default the configuration's.")
    ] = None,
) -> None:
    """Run the monitor by hand, for a server whose configuration says `start_monitor: false`."""
    settings = load_config(config)
    directory = run_dir or settings.run_dir
    if directory is None:
        raise ConfigError(f"{settings.path}: has no run_dir", "add it, or give --run-dir")
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{directory}: {error.strerror}", "give --run-dir a folder") from error
    serve(settings, directory)
