"""Options that several commands share."""

from __future__ import annotations

import re
import time
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from saeguard.rules.loading.sources import is_pack

DEFAULT_STORE = Path("saeguard-alerts.sqlite")

StoreOption = Annotated[
    Path, typer.Option("--store", envvar="SAEGUARD_STORE", help="The alert store.")
]


def existing_rules(items: list[str]) -> list[str]:
    """The items, all of which are there or name a pack; what is wrong with them is not asked."""
    for item in items:
        if not is_pack(item) and not Path(item).exists():
            raise typer.BadParameter(f"{item}: no such file or directory")
    return items


RuleItems = Annotated[
    list[str],
    typer.Argument(
        metavar="RULES",
        callback=existing_rules,
        help="Files, directories and pack:NAME, together one rule set.",
    ),
]

_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def moment_ns(text: str) -> int:
    """A moment as `2h` ago (s, m, h, d) or as an ISO date and time."""
    if ago := re.fullmatch(r"(\d+)([smhd])", text):
        return time.time_ns() - int(ago[1]) * _UNIT_S[ago[2]] * 1_000_000_000
    try:
        return int(datetime.fromisoformat(text).timestamp() * 1e9)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is neither like 30m or 2h nor a date") from error
