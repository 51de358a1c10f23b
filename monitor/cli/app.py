"""`saeguard`: which commands there are, and how they end.

Exit codes: 0 fine, 1 findings, 2 wrong usage or environment.
"""

from __future__ import annotations

import errno
import os
import sys
from io import TextIOWrapper
from typing import ClassVar, NoReturn

import typer

from saeguard.monitor.cli.lazy import LazyGroup
from saeguard.monitor.errors import SaeguardError

_CLOSED_PIPE = 141  # what a shell says of a program that SIGPIPE ended
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


class Commands(LazyGroup):
    """To add a command: a module of its own, a function with a docstring, and a line here."""

    own: ClassVar = {
        "check": ("saeguard.monitor.cli.check:check", "Check rule files."),
        "test": ("saeguard.monitor.cli.rule_tests:run_rule_tests", "Run rule tests."),
        "explain": ("saeguard.monitor.cli.explain:explain", "Say in plain language what rules do."),
        "schema": (
            "saeguard.monitor.cli.schema:schema",
            "Print the JSON Schema of rule files, for editors.",
        ),
        "packs": ("saeguard.monitor.cli.packs:app", "Rules that come with saeguard."),
        "compile": (
            "saeguard.monitor.cli.compile:compile_",
            "Compile the watchlist of some rules.",
        ),
        "features": ("saeguard.monitor.cli.features:app", "Features of SAEs, by their labels."),
        "replay": ("saeguard.monitor.cli.replay:replay", "Run rules over recorded requests."),
        "diff": ("saeguard.monitor.cli.diff:diff", "Compare the alerts of two rule sets."),
        "backtest": (
            "saeguard.monitor.cli.backtest:run",
            "Say how often rules are right on labelled recordings.",
        ),
        "calibrate": (
            "saeguard.monitor.cli.calibrate:run",
            "Set thresholds by a budget of false alarms.",
        ),
        "monitor": ("saeguard.monitor.cli.monitor:monitor", "Run the monitor by hand."),
        "alerts": ("saeguard.monitor.cli.alerts:app", "Look at alerts."),
        "spool": ("saeguard.monitor.cli.spool:app", "The durable queue of alerts."),
    }
    summaries: ClassVar = {
        "phoenix": "Verdicts from Arize Phoenix.",
        "review": "Review alerts in a browser.",
        "serve": "Serve a model with vLLM and watch it.",
        "capture": "Record the scores of given requests, offline.",
        "discover": "Find features that tell labelled examples apart, and draft a rule.",
        "drift": "Say whether a model has moved away from what its rules were calibrated on.",
        "demo": "The bundled model, SAE and rules on a real server, end to end.",
        "directions": "Published directions as probes.",
        "train-probe": "Train a probe on captured activations, and say what it is worth.",
        "verify": "Prove on a live engine that watching works, and say what it costs.",
    }


app = typer.Typer(cls=Commands, add_completion=False, no_args_is_help=True)


@app.callback()
def saeguard() -> None:
    """A safety monitor for vLLM servers."""


def main() -> None:
    """The console script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal may know ASCII only
    try:
        try:
            app()
        finally:
            if sys.stdout:
                sys.stdout.flush()
    except SaeguardError as error:
        _explain(error)
        sys.exit(2)
    except SystemExit as ended:
        if not isinstance(ended.__context__, BrokenPipeError):
            raise
        _give_up_output(_CLOSED_PIPE)  # rich and click have seen it, and would have said 1
    except BrokenPipeError:
        _give_up_output(_CLOSED_PIPE)
    except OSError as error:
        if error.filename is not None or error.errno not in _NO_ROOM:
            raise
        print(f"error: cannot write the output: {error.strerror}", file=sys.stderr)
        _give_up_output(2)


def _give_up_output(exit_code: int) -> NoReturn:
    """End; what is still in the buffer is lost, and nothing complains of it on the way out."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(exit_code)


def _explain(error: SaeguardError) -> None:
    from saeguard.monitor.logging import printable  # structlog would slow down every --help

    first, *more = [printable(line) for line in error.message.splitlines()] or [""]
    print(f"error: {first}", file=sys.stderr)
    for line in [*more, printable(error.remedy)] if error.remedy else more:
        print(f"       {line}", file=sys.stderr)
