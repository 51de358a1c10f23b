"""`saeguard alerts export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from saeguard.monitor import store
from saeguard.monitor.cli.options import DEFAULT_STORE, StoreOption
from saeguard.monitor.errors import ConfigError
from saeguard.monitor.logging import printable
from saeguard.monitor.recordings import num_evaluated, num_recorded, recorded_request
from saeguard.monitor.verdict_labels import verdict_labels
from saeguard.rules.calibration.labels import LabelError, write_labels
from saeguard.rules.quantity import quantity
from saeguard.rules.recordings.offline import RecordingError
from saeguard.rules.recordings.recording import write_recordings


def export(
    store_path: StoreOption = DEFAULT_STORE,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="The file to write, *.safetensors or *.jsonl."),
    ] = Path("recordings.safetensors"),
    rule: Annotated[
        str | None, typer.Option(help="Only requests on which the rule of this name alerted.")
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(help="Write reviewers' verdicts on them there, for backtest and calibrate."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the newest.")] = 1000,
) -> None:
    """Write the recorded scores of stored requests, for replay, diff and tests of rules."""
    records = store.list_requests(store_path, limit, rule)
    if not records:
        which = "" if rule is None else f" on which {rule!r} alerted"
        raise ConfigError(f"no request{which} is stored in {store_path}")
    try:
        write_recordings(output, [recorded_request(record) for record in records])
    except RecordingError as error:
        raise ConfigError(str(error)) from error
    print(f"wrote {quantity(len(records), 'request')} to {output}")
    if labels is not None:
        known = verdict_labels(store_path, records)
        try:
            write_labels(labels, known)
        except LabelError as error:
            raise ConfigError(str(error)) from error
        print(f"wrote verdicts on {len(known)} of them to {labels}")
    for record in records:
        recorded, evaluated = num_recorded(record), num_evaluated(record)
        if recorded < evaluated:
            name = printable(record.request_id)
            print(f"  {name}: only {recorded} of its {quantity(evaluated, 'token')} recorded")
