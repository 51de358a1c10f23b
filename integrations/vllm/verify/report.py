"""What was found out, for people and for programs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from saeguard.integrations.vllm.verify.check import Check, Result
from saeguard.integrations.vllm.verify.protocol import EngineFacts
from saeguard.monitor.logging import printable
from saeguard.monitor.watchlist import Watchlist

_WORDS: dict[Result, tuple[str, str]] = {
    "ok": ("ok", "green"),
    "failed": ("FAILED", "bold red"),
    "unproven": ("unproven", "bold yellow"),
    "skipped": ("skipped", "dim"),
}


def is_proven(checks: Sequence[Check]) -> bool:
    """Everything that was asked."""
    return all(check.result in ("ok", "skipped") for check in checks)


def print_table(
    console: Console, facts: EngineFacts, watchlist: Watchlist, checks: Sequence[Check]
) -> None:
    for name, value in _heading(facts, watchlist).items():
        console.print(f"{name:10} {printable(value)}", markup=False, soft_wrap=True)
    table = Table()
    table.add_column("check", no_wrap=True)
    table.add_column("result", no_wrap=True)
    table.add_column("measured")
    for check in checks:
        word, style = _WORDS[check.result]
        table.add_row(check.name, Text(word, style), Text(printable(check.detail)))
    console.print(table)
    num_open = sum(check.result not in ("ok", "skipped") for check in checks)
    console.print(f"{num_open} not proven" if num_open else "all proven")


def json_object(
    facts: EngineFacts, watchlist: Watchlist, checks: Sequence[Check]
) -> dict[str, Any]:
    """One object; numbers that there are not are null."""
    return {
        "version": 1,
        "proven": is_proven(checks),
        **_heading(facts, watchlist),
        "watchlist": watchlist.digest,
        "checks": [
            {
                "name": check.name,
                "result": check.result,
                "detail": check.detail,
                "numbers": {
                    name: number if math.isfinite(number) else None
                    for name, number in check.numbers.items()
                },
            }
            for check in checks
        ],
    }


def _heading(facts: EngineFacts, watchlist: Watchlist) -> dict[str, str]:
    worker = facts.workers[0]
    number = f"{len(facts.workers)} x " if len(facts.workers) > 1 else ""
    places = ", ".join(site.hook_point.place for site in watchlist.sites)
    return {
        "model": facts.model,
        "vllm": f"{facts.vllm_version}, model runner {worker.runner}",
        "compiled": f"{worker.compile_mode}, CUDA graphs {worker.cudagraph_mode}",
        "device": f"{number}{worker.device_name}, {worker.dtype}",
        "watchlist": (f"{watchlist.digest[:16]}, {len(watchlist.columns)} features at {places}"),
    }
