"""`saeguard serve`: `vllm serve` with the plugin configured."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from saeguard.integrations.vllm.closed_door import MIDDLEWARE
from saeguard.integrations.vllm.options import ConfigFile, Model, Rules, VllmArgs
from saeguard.integrations.vllm.preflight import check_model, check_port, check_vllm
from saeguard.monitor.cli.options import DEFAULT_STORE, StoreOption
from saeguard.monitor.compile import compile_watchlist
from saeguard.monitor.config import load_config, read_rules
from saeguard.monitor.errors import ConfigError
from saeguard.monitor.watchlist import load, save
from saeguard.rules.loading.sources import is_pack


def serve(
    model: Model,
    vllm_args: VllmArgs = None,
    rules: Rules = None,
    config: ConfigFile = None,
    store: StoreOption = DEFAULT_STORE,
    otlp: Annotated[
        str | None, typer.Option(help="OTLP/HTTP endpoint, such as http://localhost:4318.")
    ] = None,
    capture_text: Annotated[bool, typer.Option(help="Keep token text with alerts.")] = False,
) -> None:
    """Serve a model with vLLM and watch it."""
    vllm_args = vllm_args or []
    if (config is None) == (not rules):
        raise ConfigError("give either --rules or --config", "see saeguard serve --help")
    if config is not None and (otlp is not None or capture_text):
        raise ConfigError(f"--otlp and --capture-text belong into {config} here")
    check_vllm()
    path = config or _write_config(rules or [], store, otlp, capture_text)
    settings = load_config(path)
    read_rules(settings.rules)
    check_model(model, load(settings.watchlist))
    check_port(vllm_args)
    if settings.fail == "closed":
        vllm_args = [*vllm_args, "--middleware", MIDDLEWARE]
    command = _vllm_command(model, vllm_args)
    print(
        f"saeguard: rules {', '.join(map(str, settings.rules))}; alerts in {settings.store}",
        flush=True,
    )
    os.environ["SAEGUARD_CONFIG"] = str(settings.path)
    os.execv(command[0], command)


def _vllm_command(model: str, vllm_args: list[str]) -> list[str]:
    """`vllm serve`, which the CPU build's own distribution name breaks: there its server module."""
    vllm = Path(sys.executable).with_name("vllm")
    try:
        importlib.metadata.version("vllm")
    except importlib.metadata.PackageNotFoundError:
        server = "vllm.entrypoints.openai.api_server"
        return [sys.executable, "-P", "-m", server, "--model", model, *vllm_args]
    return [str(vllm), "serve", model, *vllm_args]


def _write_config(rules: list[str], store: Path, otlp: str | None, capture_text: bool) -> Path:
    """A configuration and a watchlist in the user's cache.

    In a directory of their own for these rules and options: a server that runs takes up changes of
    its watchlist, so those with other rules must not write over it.
    """
    watchlist = compile_watchlist(read_rules(rules))
    values: dict[str, Any] = {
        "version": 1,
        # Links are not followed: where they lead may change while the server runs.
        "rules": [item if is_pack(item) else str(Path(item).absolute()) for item in rules],
        "watchlist": "watch.safetensors",
        "store": str(store.resolve()),
        "capture_text": "window" if capture_text else "off",
    }
    if otlp is not None:
        values["destinations"] = [{"kind": "otlp", "endpoint": otlp}]
        values["metrics"] = {"endpoint": otlp}
    text = yaml.safe_dump(values, sort_keys=False)
    directory = _cache() / hashlib.sha256(text.encode()).hexdigest()[:16]
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    save(watchlist, directory / "watch.safetensors")
    path = directory / "saeguard.yaml"
    path.write_text(text)
    return path


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "saeguard"
