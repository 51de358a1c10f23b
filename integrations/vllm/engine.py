"""EngineCore's side: names requests for the monitor, and starts the monitor itself."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable
from typing import Any

from vllm.logger import init_logger

from saeguard.integrations.vllm.closed_door import closed_door
from saeguard.integrations.vllm.features import require_scheduler
from saeguard.integrations.vllm.outbox import DirectOutbox, Outbox
from saeguard.integrations.vllm.presence import Presence
from saeguard.integrations.vllm.request_reporter import RequestReporter
from saeguard.integrations.vllm.settings import (
    control_endpoint,
    engine_number,
    inbox_endpoint,
    load_settings,
    request_prefix,
    run_directory,
)
from saeguard.integrations.vllm.sharing import Seat
from saeguard.integrations.vllm.stop import Stopper
from saeguard.integrations.vllm.supervisor import ensure_monitor
from saeguard.monitor.messages import ENGINE_CORE, TapStatus

logger = init_logger("vllm.saeguard.engine")


def arm(scheduler: Any) -> None:
    """Watch this scheduler's requests, if it is configured, and start the monitor.

    Raises:
        SaeguardError: they cannot be watched; the monitor has been told.
    """
    config = load_settings(scheduler.vllm_config)
    if config is None:
        return
    at_shutdown = contextlib.ExitStack()
    tokenizer_file = tokenizer_file_of(scheduler.vllm_config.model_config)
    run_dir = run_directory(scheduler.vllm_config, config)
    seat = Seat(run_dir)
    control = control_endpoint(scheduler.vllm_config, config)
    presence = None
    if config.fail == "closed":
        presence = Presence(control, closed_door(scheduler.vllm_config, config))
    on_death = presence.died if presence else None
    monitor = ensure_monitor(config, run_dir, tokenizer_file, on_death, is_first=seat.is_first)
    if monitor is not None:
        at_shutdown.callback(monitor.stop)
    if presence is not None:
        presence.start()
        at_shutdown.callback(presence.close)  # before the monitor, which is not to be missed then
    at_shutdown.callback(seat.leave)
    outbox = DirectOutbox(inbox_endpoint(scheduler.vllm_config, config))
    at_shutdown.callback(outbox.close)
    try:
        require_scheduler(scheduler)
        prefix = request_prefix(scheduler.vllm_config)
        _watch(scheduler, tokenizer_file, outbox, prefix)
        stopper = Stopper(scheduler, control, prefix, presence)
        at_shutdown.callback(stopper.close)
        stopper.install()
    except Exception as error:
        _report_blind(scheduler, outbox, str(error))
        if config.fail == "closed":  # there will be no engine that could shut it down
            at_shutdown.close()
        raise
    finally:
        _also_at_shutdown(scheduler, at_shutdown)


def _watch(scheduler: Any, tokenizer_file: str | None, outbox: DirectOutbox, prefix: str) -> None:
    reporter = RequestReporter(
        scheduler.requests,
        _served_name(scheduler.vllm_config.model_config),
        tokenizer_file,
        _hash_block_size(scheduler),
        outbox,
        outbox.connection,
        prefix,
        engine_number(scheduler.vllm_config),
    )
    reporter.tell_running()  # whatever an engine before this one has left
    report = functools.partial(_report_blind, scheduler, outbox)
    _observe(scheduler, "schedule", report, after=reporter.scheduled)
    _observe(scheduler, "_free_request", report, before=reporter.ended)


def _report_blind(scheduler: Any, outbox: Outbox, reason: str) -> None:
    rank = ENGINE_CORE - engine_number(scheduler.vllm_config)
    status = TapStatus(rank, alive=False, reason=reason)
    outbox.post(lambda: (status, None))


def _also_at_shutdown(scheduler: Any, at_shutdown: contextlib.ExitStack) -> None:
    shutdown = getattr(scheduler, "shutdown", lambda: None)

    def shut_down_all() -> None:
        shutdown()
        at_shutdown.close()

    scheduler.shutdown = shut_down_all


def _observe(
    target: Any,
    name: str,
    report: Callable[[str], None],
    before: Callable[[Any], None] | None = None,
    after: Callable[[Any], None] | None = None,
) -> None:
    """Call `before` with the method's first argument, or `after` with its result; never raise
    into vLLM, but `report` the first failure.
    """
    method = getattr(target, name)
    failed = False

    def guarded(observer: Callable[[Any], None] | None, value: Any) -> None:
        nonlocal failed
        if observer is None:
            return
        try:
            observer(value)
        except Exception as error:
            if not failed:
                logger.exception("saeguard failed at Scheduler.%s; serving goes on", name)
                report(f"failed at Scheduler.{name}: {error!r}")
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


def tokenizer_file_of(model_config: Any) -> str | None:
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
