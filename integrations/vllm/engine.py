"""EngineCore's side: names requests for the monitor, and starts the monitor itself."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from vllm.logger import init_logger

from saeguard.integrations.vllm.outbox import DirectOutbox
from saeguard.integrations.vllm.request_reporter import RequestReporter
from saeguard.integrations.vllm.settings import (
    control_endpoint,
    inbox_endpoint,
    load_settings,
    request_prefix,
    run_directory,
)
from saeguard.integrations.vllm.sharing import Seat
from saeguard.integrations.vllm.stop import Stopper
from saeguard.integrations.vllm.supervisor import ensure_monitor
from saeguard.monitor.errors import UnsupportedError

logger = init_logger("vllm.saeguard.engine")


def arm(scheduler: Any) -> None:
    """Watch this scheduler's requests, if it is configured, and start the monitor."""
    config = load_settings(scheduler.vllm_config)
    if config is None:
        return
    needed = (
        "requests", "schedule", "update_from_output", "finish_requests", "_free_request",
        "shutdown",
    )  # fmt: skip
    if lacking := [name for name in needed if not hasattr(scheduler, name)]:
        raise UnsupportedError(f"{type(scheduler).__name__} lacks {', '.join(lacking)}")
    model_config = scheduler.vllm_config.model_config
    tokenizer_file = _tokenizer_file(model_config)
    prefix = request_prefix(scheduler.vllm_config)
    outbox = DirectOutbox(inbox_endpoint(scheduler.vllm_config, config))
    reporter = RequestReporter(
        scheduler.requests,
        _served_name(model_config),
        tokenizer_file,
        _hash_block_size(scheduler),
        outbox,
        outbox.connection,
        prefix,
    )
    run_dir = run_directory(scheduler.vllm_config, config)
    seat = Seat(run_dir)
    monitor = ensure_monitor(config, run_dir, tokenizer_file, is_first=seat.is_first)
    _observe(scheduler, "schedule", after=reporter.scheduled)
    _observe(scheduler, "_free_request", before=reporter.ended)
    stopper = Stopper(scheduler, control_endpoint(scheduler.vllm_config, config), prefix)
    stopper.install()
    shutdown = scheduler.shutdown

    def shut_down_all() -> None:
        shutdown()
        stopper.close()
        outbox.close()
        seat.leave()
        if monitor is not None:
            monitor.stop()

    scheduler.shutdown = shut_down_all


def _observe(
    target: Any,
    name: str,
    before: Callable[[Any], None] | None = None,
    after: Callable[[Any], None] | None = None,
) -> None:
    """Call `before` with the method's first argument, or `after` with its result; never raise
    into vLLM.
    """
    method = getattr(target, name)
    failed = False

    def guarded(observer: Callable[[Any], None] | None, value: Any) -> None:
        nonlocal failed
        if observer is None:
            return
        try:
            observer(value)
        except Exception:
            if not failed:
                logger.exception("saeguard failed at Scheduler.%s; serving goes on", name)
            failed = True

    def observed(*args: Any, **kwargs: Any) -> Any:
        guarded(before, next(iter((*args, *kwargs.values())), None))
        result = method(*args, **kwargs)
        guarded(after, result)
        return result

    setattr(target, name, observed)


def _hash_block_size(scheduler: Any) -> int:
    """Of how many tokens vLLM makes one hash; with several kinds of KV cache that is less than a
    block of each. 0 if it makes none, or does not say.
    """
    if not scheduler.vllm_config.cache_config.enable_prefix_caching:
        return 0
    size = getattr(scheduler, "hash_block_size", None) or getattr(scheduler, "block_size", None)
    return int(size or 0)


def _served_name(model_config: Any) -> str:
    served = model_config.served_model_name
    name = served[0] if isinstance(served, list) else served
    return str(name or model_config.model)


def _tokenizer_file(model_config: Any) -> str | None:
    """A local tokenizer.json: the monitor must not download anything."""
    local = os.path.join(model_config.tokenizer, "tokenizer.json")
    if os.path.isfile(local):
        return os.path.abspath(local)
    try:
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(
            model_config.tokenizer, "tokenizer.json", revision=model_config.tokenizer_revision
        )
    except Exception:  # a path that is no repository name, or an old hub library
        return None
    return cached if isinstance(cached, str) else None
