"""`saeguard check`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from saeguard.monitor.logging import printable
from saeguard.rules import RuleErrors, load_rules


def check(
    rules: Annotated[list[Path], typer.Argument(exists=True, help="Rule files, as one rule set.")],
) -> None:
    """Check rule files, and print every fault as file:line:column: message."""
    try:
        ruleset = load_rules(rules)
    except RuleErrors as faults:
        for fault in faults.errors:
            print(printable(str(fault)))
        raise typer.Exit(1) from None
    print(f"{len(ruleset.rules)} rules and {len(ruleset.features)} features, no faults")
