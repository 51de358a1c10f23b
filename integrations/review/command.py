"""`saeguard review`: the review page, on this machine."""

from __future__ import annotations

import secrets
import socket
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from saeguard.integrations.review.alert_page import Sources
from saeguard.integrations.review.calibrations import read_calibrations
from saeguard.monitor.alert_search import rules_of
from saeguard.monitor.cli.options import DEFAULT_STORE
from saeguard.monitor.config import load_config
from saeguard.monitor.errors import ConfigError
from saeguard.monitor.secrets import read_secret
from saeguard.monitor.verdict_tests import RuleFiles
from saeguard.monitor.watchlist import WatchlistError, load


def review(
    store_path: Annotated[
        Path | None,
        typer.Option(
            "--store",
            envvar="SAEGUARD_STORE",
            help="The alert store; by default the configuration's, or saeguard-alerts.sqlite.",
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            envvar="SAEGUARD_CONFIG",
            help="saeguard.yaml: for rule tests, and for where features come from and lie.",
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8765,
    token_file: Annotated[
        Path | None,
        typer.Option(help="With the token to ask for; off this machine one is made if unset."),
    ] = None,
) -> None:
    """Review alerts in a browser.

    On the loopback address whoever may run programs on this machine may look; elsewhere only who
    has the token.
    """
    try:
        import uvicorn

        from saeguard.integrations.review.app import review_app
        from saeguard.integrations.review.guard import LOOPBACK, Guard
    except ImportError as error:
        raise ConfigError(f"the review page: {error}", "pip install 'saeguard[review]'") from error
    sources = sources_of(store_path, config)
    rules_of(sources.store)  # it can be read
    asked = read_secret(None, token_file)
    is_local = host in LOOPBACK
    token = asked.decode() if asked else None if is_local else secrets.token_urlsafe(24)
    app = review_app(sources, Guard(token, LOOPBACK if is_local else frozenset()))
    try:
        listener = socket.create_server((host, port), family=_family(host))
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host}:{port}: {error.strerror}", "choose another --port"
        ) from error
    name = f"[{host}]" if ":" in host else host
    url = f"http://{name}:{listener.getsockname()[1]}/"
    print(url if asked or token is None else f"{url}?token={token}", flush=True)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", server_header=False))
    server.run(sockets=[listener])


def sources_of(store_path: Path | None, config: Path | None) -> Sources:
    """What the page shows.

    Raises:
        ConfigError: the configuration cannot be read.
    """
    if config is None:
        return Sources(store_path or DEFAULT_STORE)
    settings = load_config(config)
    files = RuleFiles(settings.rules, settings.path.parent)
    calibrations = read_calibrations(settings.rules)
    sources = Sources(store_path or settings.store, files, calibrations=calibrations)
    try:
        return replace(sources, watchlist=load(settings.watchlist))
    except WatchlistError as error:  # alerts can be reviewed all the same
        return replace(sources, no_watchlist=str(error))


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
