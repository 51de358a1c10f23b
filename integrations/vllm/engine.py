"""EngineCore's side: names requests for the monitor, and starts the monitor itself."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from vllm.logger import init_logger

from saeguard.integrations.vllm.outbox import DirectOutbox
from saeguard.integrations.vllm.settings import (
    control_endpoint,
    inbox_endpoint,
    load_settings,
    run_directory,
)
from saeguard.integrations.vllm.stop import Stopper
from saeguard.integrations.vllm.supervisor import MonitorProcess
from saeguard.monitor.errors import ConfigError, UnsupportedError
from saeguard.monitor.messages import STOP_REASON, RequestEnd, RequestStart

logger = init_logger("vllm.saeguard.engine")


class RequestReporter:
    """Tells the monitor when requests start and end, and how many rows the scheduler asked for."""

    def __init__(self, model: str, tokenizer_file: str | None, outbox: DirectOutbox) -> None:
        self._outbox = outbox
        self._model = model
        self._tokenizer_file = tokenizer_file
        self._num_scheduled: dict[str, int] = {}
        self._num_cached: dict[str, int] = {}

    def started(self, request: Any) -> None:
        extra = (request.sampling_params and request.sampling_params.extra_args) or {}
        message = RequestStart(
            req_id=request.request_id,
            external_id=_external_id(request.request_id),
            model=self._model,
            tokenizer_file=self._tokenizer_file,
            prompt_token_ids=list(request.prompt_token_ids or ()),
            time_ns=time.time_ns(),
            lora=request.lora_request.lora_name if request.lora_request else None,
            trace_headers=dict(request.trace_headers) if request.trace_headers else None,
            tenant=_text(extra.get("tenant")),
            client=_text(extra.get("client")),
        )
        self._num_scheduled.setdefault(request.request_id, 0)
        self._outbox.post(lambda: (message, None))

    def scheduled(self, output: Any) -> None:
        for req_id, num_tokens in output.num_scheduled_tokens.items():
            self._num_scheduled[req_id] = self._num_scheduled.get(req_id, 0) + num_tokens
        for new in output.scheduled_new_reqs:
            # A preempted request can come back as new: only its first start tells what the
            # prefix cache gave.
            self._num_cached.setdefault(new.req_id, new.num_computed_tokens)

    def ended(self, request: Any) -> None:
        req_id = request.request_id
        message = RequestEnd(
            req_id=req_id,
            reason=_end_reason(request),
            num_scheduled=self._num_scheduled.pop(req_id, 0),
            num_cached=self._num_cached.pop(req_id, 0),
            num_output_tokens=request.num_output_tokens,
            time_ns=time.time_ns(),
        )
        self._outbox.post(lambda: (message, None))


def arm(scheduler: Any) -> None:
    """Watch this scheduler's requests, if it is configured, and start the monitor."""
    config = load_settings(scheduler.vllm_config)
    if config is None:
        return
    methods = (
        "add_request", "schedule", "update_from_output", "finish_requests", "_free_request",
        "shutdown",
    )  # fmt: skip
    if lacking := [name for name in methods if not hasattr(scheduler, name)]:
        raise UnsupportedError(f"{type(scheduler).__name__} lacks {', '.join(lacking)}")
    model_config = scheduler.vllm_config.model_config
    tokenizer_file = _tokenizer_file(model_config)
    outbox = DirectOutbox(inbox_endpoint(scheduler.vllm_config, config))
    reporter = RequestReporter(_served_name(model_config), tokenizer_file, outbox)
    monitor: MonitorProcess | None = None
    is_first_on_node = not scheduler.vllm_config.parallel_config.data_parallel_rank_local
    if config.start_monitor and is_first_on_node:
        run_dir = run_directory(scheduler.vllm_config, config)
        monitor = MonitorProcess(config.path, run_dir, tokenizer_file)
        # Nothing is served yet: the first request should not be the one that is not seen.
        if not monitor.wait_until_ready():
            if config.fail == "closed":
                raise ConfigError(
                    "the monitor did not start, and the configuration says fail: closed"
                )
            logger.error("saeguard: the monitor has not started; serving goes on without it")
    _observe(scheduler, "add_request", before=reporter.started)
    _observe(scheduler, "schedule", after=reporter.scheduled)
    _observe(scheduler, "_free_request", before=reporter.ended)
    stopper = Stopper(scheduler, control_endpoint(scheduler.vllm_config, config))
    stopper.install()
    shutdown = scheduler.shutdown

    def shut_down_all() -> None:
        shutdown()
        stopper.close()
        outbox.close()
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


def _end_reason(request: Any) -> str:
    reason = request.stop_reason
    if isinstance(reason, str) and reason.startswith(STOP_REASON):
        return reason
    return str(request.status.name.removeprefix("FINISHED_").lower())


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _external_id(req_id: str) -> str:
    """The client's id: vLLM appends `-` and eight random characters to it."""
    if os.environ.get("VLLM_DISABLE_REQUEST_ID_RANDOMIZATION") == "1":
        return req_id
    head, dash, tail = req_id.rpartition("-")
    return head if dash and len(tail) == 8 else req_id


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
