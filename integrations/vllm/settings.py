"""How a vLLM process learns that it is to be watched, and what it cannot be watched with."""

from __future__ import annotations

import os
import re
import stat
import tempfile
from pathlib import Path
from typing import Any

from saeguard.monitor.config import Config, load_config
from saeguard.monitor.errors import ConfigError, UnsupportedError

KEY = "saeguard"

_DRAFTERS = ("ngram", "draft_model")
"""Ways of speculating that are tested: the drafter leaves the watched model as it is."""


def config_path(vllm_config: Any) -> Path | None:
    """`--additional-config '{"saeguard": {"config": PATH}}'`, else SAEGUARD_CONFIG, else None.

    Raises:
        ConfigError: the entry in additional_config has another shape.
    """
    additional = getattr(vllm_config, "additional_config", None)
    entry = additional.get(KEY) if isinstance(additional, dict) else None
    if entry is None or set(entry) == {"taps"}:  # "taps" is ours, put there for the compile cache
        path = os.environ.get("SAEGUARD_CONFIG")
        return Path(path) if path else None
    path = entry.get("config")
    if not isinstance(path, str):
        raise ConfigError(
            "additional_config.saeguard has no path under 'config'",
            'write {"saeguard": {"config": "saeguard.yaml"}}',
        )
    return Path(path)


def load_settings(vllm_config: Any) -> Config | None:
    """The configuration of this engine, or None when saeguard is not configured."""
    path = config_path(vllm_config)
    return None if path is None else load_config(path)


def key_compile_cache(vllm_config: Any, digest: str) -> None:
    """Make the tap layout part of vLLM's compile-cache key; must precede the first compilation.

    Without it vLLM loads a graph compiled without taps, silently, or one with other taps, and
    crashes.

    Raises:
        UnsupportedError: this platform keeps an opaque additional_config.
    """
    additional = vllm_config.additional_config
    if not isinstance(additional, dict):
        raise UnsupportedError(
            f"additional_config is a {type(additional).__name__}: the compile cache cannot be keyed"
        )
    vllm_config.additional_config = {**additional, KEY: {**additional.get(KEY, {}), "taps": digest}}


def check_supported(vllm_config: Any, device_type: str) -> None:
    """Refuse what would make the row accounting wrong.

    Raises:
        UnsupportedError: names the setting.
    """
    parallel = vllm_config.parallel_config
    drafter = getattr(vllm_config.speculative_config, "method", None)
    refused = {
        # The others would have to reach the monitor, which listens on this node.
        "an engine on several nodes": getattr(parallel, "nnodes_within_dp", 1) > 1,
        "elastic expert parallelism": getattr(parallel, "enable_elastic_ep", False),
        "prefill context parallelism": getattr(parallel, "prefill_context_parallel_size", 1) > 1,
        "dual batch overlap": getattr(parallel, "enable_dbo", False),
        f"speculative decoding with {drafter}": drafter not in (None, *_DRAFTERS),
        f"the device {device_type}": device_type not in ("cpu", "cuda"),
        # Which of a step's rows are whose is then known to the device alone.
        "adaptive verification of drafts": getattr(
            vllm_config.speculative_config, "enable_adaptive_verification", False
        ),
        # The residual stream is then sharded over the ranks between layers.
        "sequence parallelism within the graph": (  # of releases before 0.32
            parallel.tensor_parallel_size > 1
            and bool(getattr(vllm_config.compilation_config.pass_config, "enable_sp", False))
        ),
        "sequence-parallel MoE": getattr(parallel, "use_sequence_parallel_moe", False),
        "KV or encoder transfer": any(
            getattr(vllm_config, name, None) is not None
            for name in ("kv_transfer_config", "ec_transfer_config")
        ),
        "pooling models": vllm_config.model_config.runner_type == "pooling",
        "DeepSeek in float16 (its stream is scaled)": (
            str(vllm_config.model_config.dtype) == "torch.float16"
            and "Deepseek" in "".join(vllm_config.model_config.architectures)
        ),
    }
    for name, present in refused.items():
        if present:
            raise UnsupportedError(
                f"{name} is not supported yet", "start without it, or without saeguard"
            )


def engine_number(vllm_config: Any) -> int:
    """Which of the data-parallel engines this is."""
    parallel = vllm_config.parallel_config
    # The rank itself is always 0 in an engine of a model that is no mixture of experts.
    return int(getattr(parallel, "data_parallel_index", parallel.data_parallel_rank))


def worker_number(worker: Any) -> int:
    """Which one it is among the workers of all data-parallel engines."""
    config = worker.vllm_config
    return engine_number(config) * int(config.parallel_config.world_size) + int(worker.rank)


def request_prefix(vllm_config: Any) -> str:
    """What to put before the ids of requests, for the monitor: clients may choose the same one for
    two requests, and data-parallel engines would serve both. Nothing in the first engine, and where
    vLLM makes them unique.
    """
    engine = engine_number(vllm_config)
    is_unique = os.environ.get("VLLM_DISABLE_REQUEST_ID_RANDOMIZATION") != "1"
    return "" if is_unique or engine == 0 else f"dp{engine}/"


def run_directory(vllm_config: Any, config: Config) -> Path:
    """The private directory of this engine's sockets: the same path in each of its processes.

    Raises:
        ConfigError: the directory cannot be made, or others may write to it.
    """
    if config.run_dir is not None:
        path = config.run_dir
    else:
        base = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
        path = base / f"saeguard-{os.getuid()}" / vllm_config.instance_id
        _make_private(path.parent)
    _make_private(path)
    return path


def inbox_endpoint(vllm_config: Any, config: Config) -> str:
    """Where the monitor listens."""
    return f"ipc://{run_directory(vllm_config, config) / 'inbox'}"


def control_endpoint(vllm_config: Any, config: Config) -> str:
    """Where the monitor speaks."""
    return f"ipc://{run_directory(vllm_config, config) / 'control'}"


def _make_private(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        status = directory.stat()
    except OSError as error:
        raise ConfigError(
            f"{directory}: {error.strerror}", "set run_dir in saeguard.yaml"
        ) from error
    if status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o077:
        raise ConfigError(
            f"{directory}: is not private to this user", "chmod 700 it, or set run_dir"
        )


def fails_closed(vllm_config: Any) -> bool:
    """Whether this engine must not serve unwatched: what a faulty file says counts, too."""
    try:
        config = load_settings(vllm_config)
        return config is not None and config.fail == "closed"
    except ConfigError:
        pass
    try:
        path = config_path(vllm_config)
        text = path.read_text(errors="replace") if path else ""
    except (ConfigError, OSError):
        return False
    return re.search(r"^fail:\s*['\"]?closed", text, re.MULTILINE) is not None
