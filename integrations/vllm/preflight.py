"""What can be known before vLLM is started: said at once, instead of after a minute of loading."""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from saeguard.integrations.vllm.architectures import ARCHITECTURES, check_kind
from saeguard.monitor.errors import ConfigError, UnsupportedError
from saeguard.monitor.watchlist import Watchlist

PLUGIN = "saeguard"
"""Its name in `vllm.general_plugins`."""

_DEFAULT_PORT = 8000


def check_model(model: str, watchlist: Watchlist) -> None:
    """Compare a local model directory with the watchlist; a name on a hub is left to vLLM.

    Raises:
        ConfigError: the directory is absent or holds no model.
        UnsupportedError: the model does not fit the watchlist.
    """
    path = Path(model)
    if not path.exists():
        if model.startswith((".", "/", "~")) or model.count("/") > 1:
            raise ConfigError(f"{model}: no such model directory")
        return
    try:
        config: dict[str, Any] = json.loads((path / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{model}: not a model directory: config.json: {error}") from error
    _check_architecture(config.get("architectures") or [], watchlist)
    config = config.get("text_config") or config
    d_model = config.get("hidden_size")
    if d_model is not None and watchlist.d_model not in (None, d_model):
        raise UnsupportedError(
            f"the watchlist is for d_model {watchlist.d_model}, but {model} has {d_model}",
            "use SAEs or probes of this model",
        )
    num_layers = config.get("num_hidden_layers")
    last = max(site.hook_point.layer for site in watchlist.sites)
    if num_layers is not None and last >= num_layers:
        raise UnsupportedError(
            f"the watchlist taps layer {last}, but {model} has layers 0 to {num_layers - 1}",
            "use SAEs or probes of this model",
        )


def _check_architecture(names: Sequence[str], watchlist: Watchlist) -> None:
    # A multimodal wrapper has another name than the language model in it, which only vLLM can tell.
    unknown = [name for name in names if name not in ARCHITECTURES and name.endswith("ForCausalLM")]
    if unknown:
        raise UnsupportedError(
            f"architecture {unknown[0]} has no entry in saeguard's table of tap points",
            f"supported: {', '.join(sorted(ARCHITECTURES))}",
        )
    for name in names:
        for site in watchlist.sites if name in ARCHITECTURES else ():
            check_kind(ARCHITECTURES[name], site.hook_point)


def check_vllm() -> None:
    """
    Raises:
        ConfigError: vLLM is not there; or it is told which plugins to load, and saeguard is not
            among them: it would serve unwatched, and nothing of ours would be there to say so.
    """
    if importlib.util.find_spec("vllm") is None:
        raise ConfigError("vLLM is not installed here", "pip install 'saeguard[vllm]'")
    allowed = os.environ.get("VLLM_PLUGINS")
    if allowed is not None and PLUGIN not in allowed.split(","):
        raise ConfigError(
            f"VLLM_PLUGINS={allowed} keeps vLLM from loading saeguard",
            f"export VLLM_PLUGINS={','.join(filter(None, [allowed, PLUGIN]))}, or unset it",
        )


def check_port(vllm_args: Sequence[str]) -> None:
    """
    Raises:
        ConfigError: the port that vLLM would listen on is taken.
    """
    host = _option(vllm_args, "--host") or ""
    port = _option(vllm_args, "--port") or str(_DEFAULT_PORT)
    if not port.isdigit():
        return  # vLLM says what is wrong with it
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, int(port)))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                return
            raise ConfigError(f"port {port} is in use", "give another one: -- --port N") from error


def _option(arguments: Sequence[str], name: str) -> str | None:
    for i, argument in enumerate(arguments):
        if argument == name and i + 1 < len(arguments):
            return arguments[i + 1]
        if argument.startswith(f"{name}="):
            return argument.removeprefix(f"{name}=")
    return None
