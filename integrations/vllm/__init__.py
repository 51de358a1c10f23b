"""The vLLM plugin (entry point `vllm.general_plugins`)."""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import os
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["register"]

_said: set[str] = set()


def register() -> None:
    """Called by vLLM in each of its processes, several times.

    Puts two gates into start-up code: one where a worker has loaded its model, one where a
    scheduler has been made. Each looks once whether this engine is configured for saeguard, and
    arms that one object. An engine that is not configured runs vLLM's own methods throughout; with
    SAEGUARD_DISABLE=1 there are not even the gates. Where vLLM has no place for one of them, there
    is none.
    """
    if os.environ.get("SAEGUARD_DISABLE") == "1":
        return
    with _out_of_the_way():
        from vllm.v1.core.sched.scheduler import Scheduler
        from vllm.v1.worker.gpu_worker import Worker

        from saeguard.integrations.vllm.features import require

        require(Worker, "load_model")
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
        config = getattr(self, "vllm_config", None)
        if _may_be_configured(config):
            with _out_of_the_way(config):
                importlib.import_module(module).arm(self)
        return result

    gated._saeguard_gate = True  # type: ignore[attr-defined]
    setattr(owner, name, gated)


def _may_be_configured(vllm_config: Any) -> bool:
    additional = getattr(vllm_config, "additional_config", None)
    return bool(os.environ.get("SAEGUARD_CONFIG")) or (
        isinstance(additional, dict) and "saeguard" in additional
    )


@contextlib.contextmanager
def _out_of_the_way(vllm_config: Any = None) -> Iterator[None]:
    """What fails within is said, and ends serving only where the configuration says `fail: closed`.

    Args:
        vllm_config: None where it is not known yet; then only SAEGUARD_CONFIG can say so.
    """
    try:
        yield
    except Exception as error:
        from saeguard.integrations.vllm.settings import fails_closed
        from saeguard.monitor.errors import SaeguardError

        if fails_closed(vllm_config):
            raise RuntimeError(
                f"saeguard: {error} (the configuration says fail: closed)"
            ) from error
        if str(error) in _said:  # the worker and the scheduler of one process found the same
            return
        _said.add(str(error))
        expected = isinstance(error, SaeguardError)
        logging.getLogger("vllm.saeguard").error(
            "saeguard is BLIND: %s. Serving goes on without it.", error, exc_info=not expected
        )
