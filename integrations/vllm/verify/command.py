"""`saeguard verify`: prove on a live engine that what is watched is right, and what it costs."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from saeguard.integrations.vllm.options import ConfigFile, Model, Rules, VllmArgs
from saeguard.integrations.vllm.preflight import check_model, check_vllm
from saeguard.integrations.vllm.verify.report import is_proven, json_object, print_table
from saeguard.integrations.vllm.verify.setting import write_setting
from saeguard.integrations.vllm.verify.trial import Trial
from saeguard.monitor.compile import compile_watchlist
from saeguard.monitor.config import load_config, read_rules
from saeguard.monitor.errors import ConfigError
from saeguard.monitor.rulebook import load_rulebook
from saeguard.monitor.watchlist import Watchlist, load
from saeguard.rules.loading.sources import is_pack


def verify(
    model: Model,
    vllm_args: VllmArgs = None,
    rules: Rules = None,
    config: ConfigFile = None,
    cost: Annotated[
        bool, typer.Option(help="Measure what watching costs, with a second engine.")
    ] = True,
    thorough: Annotated[
        bool,
        typer.Option("--thorough", help="With an empty compile cache, first without the taps."),
    ] = False,
    output: Annotated[
        Literal["text", "json"], typer.Option("--format", help="For people or for programs.")
    ] = "text",
    work: Annotated[
        Path | None,
        typer.Option(help="A new folder to keep the logs and the store of the run in."),
    ] = None,
) -> None:
    """Prove on a live engine that watching works, and say what it costs.

    Exit code 0: all proven. 1: something failed, or could not be proven. 2: wrong usage, or the
    engine did not start.
    """
    watchlist, rule_files = _watched(rules, config)
    check_model(model, watchlist)
    directory = _new_folder(work)
    setting = write_setting(directory, watchlist, rule_files)
    progress = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    trial = Trial(model, vllm_args or [], directory, setting, thorough, progress.print)
    facts, checks = trial.run(cost)
    if output == "json":
        print(json.dumps(json_object(facts, watchlist, checks)))
    else:
        print_table(Console(highlight=False), facts, watchlist, checks)
    if work is None and is_proven(checks):
        shutil.rmtree(directory)
    else:
        progress.print(f"logs and store: {directory}")
    raise typer.Exit(0 if is_proven(checks) else 1)


def _watched(rules: list[str] | None, config: Path | None) -> tuple[Watchlist, list[str | Path]]:
    """The user's watchlist, and the rules that it was made for.

    Raises:
        SaeguardError: they cannot be used, and why.
    """
    if (config is None) == (not rules):
        raise ConfigError("give either --rules or --config", "see saeguard verify --help")
    check_vllm()
    if config is None:
        items: list[str | Path] = [
            i if is_pack(i) else str(Path(i).absolute()) for i in rules or ()
        ]
        return compile_watchlist(read_rules(items)), items
    settings = load_config(config)
    load_rulebook(settings)  # says where the watchlist is not that of the rules
    return load(settings.watchlist), list(settings.rules)


def _new_folder(work: Path | None) -> Path:
    if work is None:
        return Path(tempfile.mkdtemp(prefix="saeguard-verify-"))
    try:
        work.mkdir(parents=True, exist_ok=True)
        if any(work.iterdir()):
            raise ConfigError(f"{work}: is not empty", "give --work a new folder")
    except OSError as error:
        raise ConfigError(f"{work}: {error.strerror}", "give --work a new folder") from error
    return work.absolute()
