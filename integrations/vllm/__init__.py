"""The vLLM plugin (entry point `vllm.general_plugins`)."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

__all__ = ["register"]

_said: set[str] = set()


def register() -> None:
    """Called by vLLM in each of its processes, several times.

    Puts two gates into start-up code: one where a worker has loaded its model, one where a
    scheduler has been made. Each looks once whether this engine is configured for saeguard, and
    arms that one object. An
    engine that is not configured runs vLLM's own methods throughout; with SAEGUARD_DISABLE=1
    there are not even the gates.
    """
    if os.environ.get("SAEGUARD_DISABLE") == "1":
        return
    from vllm.v1.core.sched.scheduler import Scheduler
    from vllm.v1.worker.gpu_worker import Worker

    _gate(Worker, "load_model", "saeguard.integrations.vllm.worker")
    _gate(Scheduler, "__init__", "saeguard.integrations.vllm.engine")


def _gate(owner: type, name: str, module: str) -> None:
    """After `owner.name(self, ...)`, call `module.arm(self)` if the engine is configured."""
    method: Callable[..., Any] = getattr(owner, name)
    if hasattr(method, "_saeguard_gate"):
        return

    @functools.wraps(method)
    def gated(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = method(self, *args, **kwargs)
        if _may_be_configured(self.vllm_config):
            _arm(module, self)
        return result

    gated._saeguard_gate = True  # type: ignore[attr-defined]
    setattr(owner, name, gated)


def _may_be_configured(vllm_config: Any) -> bool:
    additional = vllm_config.additional_config
    return bool(os.environ.get("SAEGUARD_CONFIG")) or (
        isinstance(additional, dict) and "saeguard" in additional
    )


def _arm(module: str, target: Any) -> None:
    """Arm `target`; a fault of ours ends serving only where the configuration says `fail:
    closed`.
    """
    import importlib

    from vllm.logger import init_logger

    from saeguard.integrations.vllm.settings import fails_closed
    from saeguard.monitor.errors import SaeguardError

    logger = init_logger("vllm.saeguard")
    try:
        importlib.import_module(module).arm(target)
    except Exception as error:
        if fails_closed(target.vllm_config):
            raise RuntimeError(
                f"saeguard: {error} (the configuration says fail: closed)"
            ) from error
        if str(error) in _said:  # the worker and the scheduler of one process found the same
            return
        _said.add(str(error))
        expected = isinstance(error, SaeguardError)
        logger.error(
            "saeguard is BLIND: %s. Serving goes on without it.", error, exc_info=not expected
        )
