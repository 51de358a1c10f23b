"""Runs in vLLM's worker processes: what a worker can tell of itself and of its taps."""

from __future__ import annotations

import copy
from typing import Any

import msgspec
import torch

from saeguard.integrations.vllm.settings import KEY
from saeguard.integrations.vllm.tap import layout_digest
from saeguard.integrations.vllm.verify.protocol import WorkerFacts


def worker_facts(worker: Any) -> dict[str, Any]:
    """`WorkerFacts` as plain values. Waits for the device: not while something is served."""
    runner, config = worker.model_runner, worker.vllm_config
    compilation = config.compilation_config
    device = worker.device
    return msgspec.to_builtins(  # type: ignore[no-any-return]
        WorkerFacts(
            rank=worker.rank,
            runner="V2" if hasattr(runner, "req_states") else "V1",
            device=device.type,
            device_name=torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
            dtype=str(config.model_config.dtype).removeprefix("torch."),
            compile_mode=_name(getattr(compilation, "mode", None)),
            cudagraph_mode=_name(getattr(compilation, "cudagraph_mode", None)),
            **_tap_facts(worker),
        )
    )


def _tap_facts(worker: Any) -> dict[str, Any]:
    monitor = getattr(worker, "saeguard", None)
    if monitor is None:
        return {}
    taps, config = monitor.taps, worker.vllm_config
    return {
        "is_watched": True,
        "num_steps": monitor.num_steps,
        "places": [tap.site.hook_point.place for tap in taps],
        "calls": [int(tap.calls.item()) for tap in taps],
        "is_written": [bool(tap.scores[:, : tap.width].isfinite().any()) for tap in taps],
        "is_keyed": _key(config) == layout_digest(taps),
        "is_key_effective": config.compute_hash() != _without_key(config).compute_hash(),
    }


def _key(config: Any) -> Any:
    additional = config.additional_config
    return additional.get(KEY, {}).get("taps") if isinstance(additional, dict) else None


def _without_key(config: Any) -> Any:
    """As that of an engine which is not watched."""
    plain = copy.copy(config)
    if isinstance(config.additional_config, dict):
        plain.additional_config = {k: v for k, v in config.additional_config.items() if k != KEY}
    return plain


def _name(mode: Any) -> str:
    return str(getattr(mode, "name", mode)).lower()
