"""What must be there in vLLM for its requests to be watched: looked for, never concluded from a
version's number.

Each release moves some of these names. Where one is missing, monitoring is off, and says which.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

from saeguard.monitor.errors import UnsupportedError


def require(owner: Any, *names: str) -> None:
    """Look for attributes of an object, or of a class and of what it makes.

    Raises:
        UnsupportedError: names those that are missing.
    """
    declared = {field.name for field in fields(owner)} if is_dataclass(owner) else set()
    if missing := [name for name in names if name not in declared and not hasattr(owner, name)]:
        kind = owner if isinstance(owner, type) else type(owner)
        raise UnsupportedError(
            f"{kind.__module__}.{kind.__qualname__} has no {' and no '.join(missing)} in this vLLM",
            "see docs/vllm-versions.md for the releases that are tested",
        )


def require_worker(worker: Any) -> None:
    """What is wrapped or asked of a worker that has loaded its model, and of vLLM around it.

    Raises:
        UnsupportedError: names what is missing.
    """
    from vllm.v1.core.sched.output import SchedulerOutput

    require(
        worker,
        "rank", "device", "model_runner", "execute_model", "compile_or_warm_up_model", "shutdown",
    )  # fmt: skip
    require(worker.model_runner, "get_model")
    require(
        SchedulerOutput,
        "num_scheduled_tokens", "total_num_scheduled_tokens", "scheduled_spec_decode_tokens",
    )  # fmt: skip
    require_own_scheduler(worker.vllm_config.scheduler_config)


def require_own_scheduler(scheduler_config: Any) -> None:
    """
    Raises:
        UnsupportedError: another scheduler than vLLM's will be made, of which we would not hear.
    """
    from vllm.v1.core.sched.scheduler import Scheduler

    require(scheduler_config, "get_scheduler_cls")
    scheduler = scheduler_config.get_scheduler_cls()
    if not issubclass(scheduler, Scheduler):
        raise UnsupportedError(f"the scheduler {scheduler.__name__} is not derived from vLLM's")


def require_scheduler(scheduler: Any) -> None:
    """What is wrapped or read of a scheduler, its requests and what it schedules, and what it takes
    to end a request.

    Raises:
        UnsupportedError: names what is missing.
    """
    from vllm.v1.core.sched.output import CachedRequestData, NewRequestData, SchedulerOutput
    from vllm.v1.engine import EngineCoreOutput
    from vllm.v1.request import Request, RequestStatus

    require(
        scheduler,
        "requests", "schedule", "update_from_output", "finish_requests", "_free_request",
        "shutdown",
    )  # fmt: skip
    require(SchedulerOutput, "scheduled_new_reqs", "scheduled_cached_reqs", "num_scheduled_tokens")
    require(NewRequestData, "req_id", "num_computed_tokens")
    require(CachedRequestData, "req_ids", "resumed_req_ids", "num_computed_tokens")
    require(Request, "num_output_tokens", "is_finished", "get_finished_reason", "take_events")
    require(RequestStatus, "FINISHED_STOPPED")
    require(
        EngineCoreOutput,
        "request_id", "new_token_ids", "finish_reason", "stop_reason", "events", "trace_headers",
    )  # fmt: skip
