"""Options of the commands whose work can be done on a cluster."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Annotated

import typer

from saeguard.monitor.errors import ConfigError
from saeguard.monitor.shards import Runner, run_here

_PANEL = "Ray"

RayOption = Annotated[
    bool,
    typer.Option("--ray", help="Work on several shards at a time.", rich_help_panel=_PANEL),
]
WorkersOption = Annotated[
    int,
    typer.Option("--ray-workers", min=1, help="Processes.", rich_help_panel=_PANEL),
]
AddressOption = Annotated[
    str | None,
    typer.Option(
        "--ray-address",
        metavar="HOST:PORT",
        help="A cluster that is there; without it one is started here, for this run.",
        rich_help_panel=_PANEL,
    ),
]
GpusOption = Annotated[
    float,
    typer.Option("--ray-gpus", min=0, help="GPUs of each process.", rich_help_panel=_PANEL),
]


def choose_runner(use_ray: bool, workers: int, address: str | None, gpus: float = 0.0) -> Runner:
    """Where the work is done.

    Raises:
        typer.BadParameter: there is an address, and yet Ray is not to be used.
        ConfigError: Ray is to be used, and is not installed.
    """
    if not use_ray:
        if address:
            raise typer.BadParameter("--ray-address is for --ray: give that, too")
        return run_here
    (entry,) = entry_points(group="saeguard.runners", name="ray")
    try:
        runner: Runner = entry.load()(workers, address, gpus)
    except ImportError as error:
        raise ConfigError(
            f"--ray needs Ray, which cannot be imported: {error}", "pip install 'saeguard[ray]'"
        ) from error
    return runner
