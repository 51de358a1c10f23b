"""`saeguard alerts to-test`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from saeguard.monitor import store
from saeguard.monitor.cli.options import DEFAULT_STORE, RuleItems, StoreOption
from saeguard.monitor.cli.rule_test_views import print_file
from saeguard.monitor.errors import ConfigError
from saeguard.monitor.verdict_tests import RuleFiles, rule_test
from saeguard.rules.testing.files import run_files


def to_test(
    alert_id: Annotated[
        str, typer.Argument(metavar="ALERT", help="The start or the end of the alert's id.")
    ],
    rules: RuleItems,
    store_path: StoreOption = DEFAULT_STORE,
    folder: Annotated[
        Path,
        typer.Option("--folder", file_okay=False, exists=True, help="Where the test is to lie."),
    ] = Path(),
) -> None:
    """Make a rule test of an alert on which there is a verdict, and run it.

    A true positive is expected to come again. A false positive or a benign alert is expected not
    to: that test fails until the rules are better.
    """
    alert = store.get_alert(store_path, alert_id)
    test = rule_test(store_path, alert, RuleFiles(tuple(rules), folder))
    path = folder / test.name
    try:
        with path.open("x", encoding="utf-8") as file:  # it may have been changed by hand since
            file.write(test.text)
    except FileExistsError as error:
        raise ConfigError(f"{path}: is there already", "remove it first") from error
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    for result in run_files([path]):
        print_file(result)
    if not test.expects_alert:
        print("made of an alert that was wrong: it fails until the rules are better")
