"""`saeguard phoenix`: what people say of alerts in Arize Phoenix, brought into the alert store."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from saeguard.integrations.phoenix.server import PhoenixServer
from saeguard.integrations.phoenix.verdicts import LABELS, Pulled, pull, set_up
from saeguard.monitor.cli.options import DEFAULT_STORE, StoreOption
from saeguard.monitor.logging import printable
from saeguard.monitor.secrets import read_secret

KEY_ENV = "PHOENIX_API_KEY"

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Verdicts from Arize Phoenix.")

EndpointOption = Annotated[str, typer.Option(help="Phoenix's URL.")]
ProjectOption = Annotated[
    str, typer.Option(help="That the alerts are in: the `service_name` of their destination.")
]
AnnotationOption = Annotated[
    str, typer.Option(help="Name of the annotations that hold the verdicts.")
]
KeyOption = Annotated[
    Path | None, typer.Option(help=f"With Phoenix's API key, else from ${KEY_ENV} if set.")
]
CertificatesOption = Annotated[
    Path | None, typer.Option(help="With the certificates to trust, in place of the system's.")
]


@app.command()
def setup(
    endpoint: EndpointOption = "http://localhost:6006",
    project: ProjectOption = "saeguard",
    annotation: AnnotationOption = "verdict",
    api_key_file: KeyOption = None,
    ca_file: CertificatesOption = None,
) -> None:
    """Offer the verdicts to whoever opens an alert in Phoenix. Doing it twice does no harm."""
    set_up(_server(endpoint, api_key_file, ca_file), project, annotation)
    print(f"{annotation} ({', '.join(LABELS)}) is offered on every span of project {project}")


@app.command("pull")
def pull_(
    store_path: StoreOption = DEFAULT_STORE,
    endpoint: EndpointOption = "http://localhost:6006",
    project: ProjectOption = "saeguard",
    annotation: AnnotationOption = "verdict",
    api_key_file: KeyOption = None,
    ca_file: CertificatesOption = None,
) -> None:
    """Write what people said of alerts in Phoenix into the alert store.

    Run it as often as you like: what the store has already is left alone. Exit code 1 if there are
    labels that are no verdicts.
    """
    pulled = pull(_server(endpoint, api_key_file, ca_file), project, store_path, annotation)
    _print(pulled, annotation)
    raise typer.Exit(int(bool(pulled.unknown_labels)))


def _server(endpoint: str, api_key_file: Path | None, ca_file: Path | None) -> PhoenixServer:
    env = None if api_key_file or KEY_ENV not in os.environ else KEY_ENV
    key = read_secret(env, api_key_file)
    return PhoenixServer(endpoint, key.decode() if key else None, ca_file)


def _print(pulled: Pulled, annotation: str) -> None:
    print(
        f"verdicts: {pulled.num_new} new, {pulled.num_known} known already; "
        f"alerts in the store: {pulled.num_alerts}"
    )
    if pulled.num_not_human:
        print(f"left in Phoenix: {pulled.num_not_human} not by a person")
    for label, number in pulled.unknown_labels.items():
        what = f"with the label {printable(label)!r}" if label else "without a label"
        print(f"left in Phoenix: {number} {what}; {annotation} is one of {', '.join(LABELS)}")
