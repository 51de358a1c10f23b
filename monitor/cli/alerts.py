"""`saeguard alerts`: the stored alerts as a list, and one of them in full."""

from __future__ import annotations

import sys
from typing import Annotated

import msgspec
import typer
from rich.console import Console, RenderableType

from saeguard.monitor import store
from saeguard.monitor.alerts import Alert, RequestRecord, Severity, readable
from saeguard.monitor.cli import alert_views as views
from saeguard.monitor.cli.export import export
from saeguard.monitor.cli.options import DEFAULT_STORE, StoreOption, moment_ns
from saeguard.monitor.cli.to_test import to_test
from saeguard.monitor.errors import ConfigError
from saeguard.monitor.strip import TokenStrip

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead.")]

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Look at alerts.")


@app.command("list")
def list_(
    store_path: StoreOption = DEFAULT_STORE,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 50,
    rule: Annotated[str | None, typer.Option(help="Only of the rule of this name.")] = None,
    severity: Annotated[Severity | None, typer.Option(help="At least this severe.")] = None,
    since: Annotated[
        int | None,
        typer.Option(parser=moment_ns, metavar="WHEN", help="Like 30m, 2h, 7d or 2026-11-21."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List alerts, the newest first."""
    alerts = store.list_alerts(store_path, limit, rule, severity, since)
    if as_json:
        for alert in alerts:
            _print_json(alert)
    elif alerts:
        _console().print(views.alert_table(alerts))
    else:
        print("no alerts", file=sys.stderr)


@app.command()
def show(
    alert_id: Annotated[
        str, typer.Argument(metavar="ID", help="The start or the end of the alert's id.")
    ],
    store_path: StoreOption = DEFAULT_STORE,
    feature: Annotated[
        str | None,
        typer.Option(help="Whose scores colour the tokens; the firing signal's if unset."),
    ] = None,
    context: Annotated[
        int, typer.Option(min=0, help="Tokens on either side of the firing one.")
    ] = 100,
    as_json: JsonOption = False,
) -> None:
    """Show why an alert fired, what was seen of its request, and the tokens."""
    alert = store.get_alert(store_path, alert_id)
    record = store.get_request(store_path, alert.req_id)
    if as_json:
        return _print_json({"alert": alert, "request": record and readable(record)})
    parts: list[RenderableType] = [views.header(alert, record)]
    if alert.correlation is not None:
        parts.append(views.correlation(alert.correlation))
    if alert.kind != "health":
        tokens = _tokens(alert, record, feature, context)
        parts += [views.signals(alert), views.coverage(alert, record)]
        if record is not None and record.counts:
            parts.append(views.outcomes(record))
        parts.append(tokens)
    _console().print(*parts)
    return None


app.command()(export)
app.command()(to_test)


def _tokens(
    alert: Alert, record: RequestRecord | None, feature: str | None, context: int
) -> TokenStrip | str:
    if record is None:
        return "no tokens: the request is still running, or its record has made room for newer ones"
    return TokenStrip(record, alert, _feature(alert, record, feature), context)


def _feature(alert: Alert, record: RequestRecord, wanted: str | None) -> str:
    if wanted is None:
        firing = [s.feature for s in alert.signals if s.holds and s.feature in record.features]
        return firing[0] if firing else record.features[0]
    if wanted not in record.features:
        raise ConfigError(
            f"feature {wanted!r} was not watched", f"choose one of {', '.join(record.features)}"
        )
    return wanted


def _console() -> Console:
    """Without a terminal there is no width to fit, and cut tables help nobody."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else 160)


def _print_json(value: object) -> None:
    print(msgspec.json.encode(value).decode())
