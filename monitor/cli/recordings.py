"""What the commands about recordings share."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from saeguard.monitor.cli.alert_views import SEVERITY_STYLES, safe
from saeguard.monitor.config import read_rules
from saeguard.monitor.errors import ConfigError
from saeguard.monitor.replays import Place, Replayed, replay
from saeguard.rules import RuleSet
from saeguard.rules.recordings.offline import RecordedRequest, RecordingError
from saeguard.rules.recordings.recording import read_recordings


class Format(StrEnum):
    TEXT = "text"
    JSON = "json"


FormatOption = Annotated[Format, typer.Option("--format", help="json: for programs.")]


def read_requests(paths: Sequence[Path | str]) -> list[RecordedRequest]:
    """The requests of several recordings, one after the other.

    Raises:
        ConfigError: a file cannot be read as a recording.
    """
    try:
        return [request for path in paths for request in read_recordings(Path(path))]
    except RecordingError as error:
        raise ConfigError(str(error)) from error


def replay_files(
    rules: Sequence[str], requests: Sequence[RecordedRequest]
) -> tuple[RuleSet, list[Replayed]]:
    """What the rules make of the requests.

    Raises:
        ConfigError: the rules are wrong, or a recording lacks a feature.
    """
    ruleset = read_rules(rules)
    try:
        return ruleset, replay(ruleset, requests)
    except RecordingError as error:
        remedy = "record it with a watchlist of these rules"
        raise ConfigError(str(error), remedy) from error


def console() -> Console:
    """Without a terminal or COLUMNS there is no width to fit, and cut tables help nobody."""
    found = Console(highlight=False)
    has_width = found.is_terminal or "COLUMNS" in os.environ
    return found if has_width else Console(highlight=False, width=160)


def token(place: Place | None) -> str:
    """`answer 12`: its number within its phase. A correlation has none."""
    return "-" if place is None else f"{place.phase} {place.token}"


def indented(table: Table) -> Padding:
    """What belongs to a heading."""
    return Padding(table, (0, 0, 0, 2), expand=False)


def plain(alert: Replayed) -> dict[str, object]:
    """An alert as plain values."""
    values = asdict(alert)
    del values["outcome"], values["exception"]  # of an alert they say nothing
    return values | (values.pop("place") or {})


def heading(alert: Replayed) -> Text:
    """The rule that some alerts are of."""
    severity = (alert.severity, SEVERITY_STYLES.get(alert.severity, ""))
    return Text.assemble(safe(alert.rule, "bold"), "  ", severity)
