"""`saeguard spool`: what waits for which destination, and sending it again."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from saeguard.monitor import spool
from saeguard.monitor.alerts import Alert
from saeguard.monitor.cli.options import DEFAULT_STORE, StoreOption, moment_ns
from saeguard.monitor.config import load_config
from saeguard.monitor.delivery import BATCH_SIZE, DeliveryError, Destination
from saeguard.monitor.destinations import load_destinations
from saeguard.monitor.errors import ConfigError
from saeguard.monitor.logging import printable
from saeguard.rules.quantity import quantity

app = typer.Typer(no_args_is_help=True, add_completion=False, help="The durable queue of alerts.")


class Which(StrEnum):
    all = "all"
    pending = "pending"
    quarantined = "quarantined"


SinceOption = Annotated[
    int | None,
    typer.Option(parser=moment_ns, metavar="WHEN", help="Like 30m, 2h, 7d or 2026-11-21."),
]


@app.command()
def status(
    store_path: StoreOption = DEFAULT_STORE,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> None:
    """Say how far each destination has got. Exit code 1 if any has refused an alert."""
    found = spool.status(store_path)
    if as_json:
        print(msgspec.json.encode(found).decode())
    else:
        _print(found)
    raise typer.Exit(int(any(each.num_quarantined for each in found.destinations)))


@app.command()
def export(
    store_path: StoreOption = DEFAULT_STORE,
    which: Annotated[Which, typer.Option(help="Of the destination.")] = Which.all,
    destination: Annotated[str, typer.Option(help="As `status` prints it.")] = "",
    since: SinceOption = None,
) -> None:
    """Print alerts as JSON, one a line, the oldest first."""
    if which is not Which.all:
        _require(destination, [each.name for each in spool.status(store_path).destinations])
    for _, alert in spool.select(store_path, which, destination, since or 0):
        print(msgspec.json.encode(alert).decode())


@app.command()
def replay(
    config_path: Annotated[
        Path, typer.Option("--config", help="The saeguard.yaml with the destination.")
    ],
    destination: Annotated[str, typer.Option(help="As `status` prints it.")],
    which: Annotated[Which, typer.Option(help="Of the destination.")] = Which.quarantined,
    since: SinceOption = None,
) -> None:
    """Send alerts to a destination again, beside the monitor; they keep their ids. What it takes
    leaves its quarantine.

    Pending alerts are sent by the monitor itself, which goes on with them.
    """
    config = load_config(config_path)
    known = load_destinations(config)
    _require(destination, list(known))
    num_taken = num_refused = 0
    alerts = spool.select(config.store, which, destination, since or 0)
    while batch := list(itertools.islice(alerts, BATCH_SIZE)):
        taken, reasons = _deliver(known[destination], batch)
        spool.release(config.store, destination, taken)
        num_taken += len(taken)
        num_refused += len(reasons)
        for reason in reasons:
            print(f"refused: {reason}", file=sys.stderr)
    print(f"{num_taken} taken by {destination}, {num_refused} refused")
    raise typer.Exit(int(num_refused > 0))


def _deliver(
    destination: Destination, batch: Sequence[tuple[int, Alert]]
) -> tuple[list[int], list[str]]:
    """Which rows it takes, and why it refuses the others; a batch with one of those is halved.

    Raises:
        DeliveryError: it takes nothing at the moment.
    """
    try:
        destination.deliver([alert for _, alert in batch])
    except DeliveryError as error:
        if error.retriable:
            raise
        if len(batch) == 1:
            return [], [printable(f"alert {batch[0][1].id}: {error}")]
        middle = len(batch) // 2
        first = _deliver(destination, batch[:middle])
        second = _deliver(destination, batch[middle:])
        return first[0] + second[0], first[1] + second[1]
    return [row for row, _ in batch], []


def _require(destination: str, known: Sequence[str]) -> None:
    if destination not in known:
        raise ConfigError(
            f"there is no destination {destination!r}", f"known: {', '.join(known) or 'none'}"
        )


def _print(found: spool.SpoolStatus) -> None:
    size = f"{found.used_bytes / 2**20:.1f} MiB"
    alerts, requests = quantity(found.num_alerts, "alert"), quantity(found.num_requests, "request")
    print(f"{alerts} and {requests}, {size}")
    if not found.destinations:
        return
    table = Table("destination", "pending", "oldest", "refused", "why the newest was refused")
    for each in found.destinations:
        table.add_row(
            printable(each.name),
            str(each.num_pending),
            _age(each.oldest_pending_ns),
            str(each.num_quarantined),
            printable(each.last_reason or ""),
        )
    Console(highlight=False, width=None if sys.stdout.isatty() else 160).print(table)


def _age(time_ns: int | None) -> str:
    if time_ns is None:
        return "-"
    age_s = max(0, time.time_ns() - time_ns) // 1_000_000_000
    units = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))
    unit, seconds = next(each for each in units if age_s >= each[1] or each[0] == "s")
    return f"{age_s // seconds} {unit}"
