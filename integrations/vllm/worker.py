"""The worker's side: install the taps, and send a frame of scores after every step."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from vllm.logger import init_logger

from saeguard.integrations.vllm.control import ControlListener
from saeguard.integrations.vllm.features import require_worker
from saeguard.integrations.vllm.outbox import Build, DirectOutbox, Outbox, ThreadedOutbox
from saeguard.integrations.vllm.refill import overwrite
from saeguard.integrations.vllm.self_test import self_test
from saeguard.integrations.vllm.settings import (
    check_supported,
    control_endpoint,
    engine_number,
    inbox_endpoint,
    key_compile_cache,
    load_settings,
    request_prefix,
    worker_number,
)
from saeguard.integrations.vllm.stages import stage_of
from saeguard.integrations.vllm.step_view import StepView, adapter_for
from saeguard.integrations.vllm.swap import WatchlistSwap
from saeguard.integrations.vllm.tap import (
    Tap,
    columns_of,
    hook,
    layout_digest,
    make_taps,
    snapshot,
)
from saeguard.integrations.vllm.tap_rows import capacity_for
from saeguard.integrations.vllm.to_host import ToHost
from saeguard.monitor import watchlist as wl
from saeguard.monitor.errors import UnsupportedError
from saeguard.monitor.messages import Frame, FrameArrays, Part, TapStatus

logger = init_logger("vllm.saeguard.worker")

_MAX_PENDING_BYTES = 256 * 2**20


class WorkerMonitor:
    """The taps of one worker and what sends their scores; lives as long as the worker."""

    def __init__(self, worker: Any, path: Path, watchlist: wl.Watchlist, outbox: Outbox) -> None:
        config = worker.vllm_config
        check_supported(config, worker.device.type)
        model_config = config.model_config
        if watchlist.d_model not in (None, model_config.get_hidden_size()):
            raise UnsupportedError(
                f"the watchlist is for d_model {watchlist.d_model}, "
                f"but {model_config.model} has {model_config.get_hidden_size()}",
                "compile the watchlist from SAEs or probes of this model",
            )
        scheduler = config.scheduler_config
        max_tokens = scheduler.max_num_batched_tokens + scheduler.max_num_seqs
        self._runner = worker.model_runner
        self._view = adapter_for(self._runner)
        model = self._runner.get_model()
        stage = stage_of(model, watchlist)
        self._taps: list[Tap] = make_taps(model, stage.here, max_tokens)
        self_test(self._taps)
        self._digest = watchlist.digest
        self._engine = engine_number(config)
        self._number = worker_number(worker)
        self._request_prefix = request_prefix(config)
        self._num_parts = stage.num_tapping
        self._columns = columns_of(self._taps, watchlist)
        self.swap = WatchlistSwap(
            path,
            watchlist.digest,
            self._taps,
            self._number,
            config.parallel_config.world_size,
            stage.elsewhere,
        )
        self._sends = bool(self._taps) and _is_first_tensor_parallel_rank()
        self._outbox = outbox
        self._fault: TapStatus | None = None
        self._step = 0
        self._to_host = ToHost(worker.device)
        key_compile_cache(config, layout_digest(self._taps))
        hook(self._taps)  # last: nothing may fail once the model is hooked

    @property
    def taps(self) -> Sequence[Tap]:
        return self._taps

    @property
    def num_steps(self) -> int:
        """In how many steps it was to send scores so far."""
        return self._step

    @property
    def watched(self) -> str:
        """What this worker's own taps are for, for the log."""
        places = ", ".join(tap.site.hook_point.place for tap in self._taps) or "no layer"
        return f"{len(self._columns)} features at {places}"

    def check_alive(self) -> None:
        """After warm-up: every tap must have run, or the compiled graph lacks it."""
        dead = ", ".join(
            tap.site.hook_point.place for tap in self._taps if int(tap.calls.item()) == 0
        )
        reason = f"the taps of {dead} never ran in warm-up: stale compile cache?" if dead else ""
        self.report(not dead, reason)
        if dead:
            raise UnsupportedError(reason, "start once with VLLM_DISABLE_COMPILE_CACHE=1")

    def report(self, alive: bool, reason: str = "") -> None:
        """Tell the monitor whether it can rely on this worker."""
        status = TapStatus(rank=self._number, alive=alive, reason=reason)
        self._fault = None if alive else status
        self._outbox.post(lambda: (status, None))

    def fault(self) -> TapStatus | None:
        """Why the monitor cannot rely on this worker, if it cannot. From any thread."""
        return self._fault

    def before_step(self) -> None:
        """Change to another watchlist if one was handed over. Runs on the engine's thread: enqueues
        copies, waits for nothing.
        """
        new = self.swap.take()
        if new is None:
            return
        self._digest = ""  # should it fail half-way, no frame may claim to be of either
        try:
            self._taps = overwrite(self._taps, new.taps)
            self._columns, self._digest = new.columns, new.watchlist
        except Exception as error:
            logger.exception("saeguard could not change the watchlist; serving goes on")
            self.report(False, f"changing the watchlist failed: {error}")

    def after_step(self, scheduler_output: Any) -> None:
        """Snapshot this step's scores and hand them on. Runs on the engine's thread: copies
        only, no waiting.
        """
        try:
            if not self._sends or scheduler_output.total_num_scheduled_tokens == 0:
                return
            self._step += 1  # whatever becomes of it: all stages must number alike
            view = self._view(self._runner, scheduler_output)
            if view is not None:
                self._outbox.post(self._snapshot(view))
        except Exception as error:
            self._sends = False  # what has failed once must not cost every step an exception
            logger.exception("saeguard could not read a step, and reads no more; serving goes on")
            self.report(False, f"reading a step failed: {error!r}")

    def _snapshot(self, view: StepView) -> Build:
        # Copies throughout: the next step overwrites the buffers while these are on their way.
        scores, calls = snapshot(self._taps, view.num_tokens)
        token_ids = view.token_ids.to(torch.int32, copy=True)
        positions = view.positions.to(torch.int32, copy=True)
        tensors = [scores, token_ids, positions, calls]
        host, ready = self._to_host(tensors)
        step, now, digest = self._step, time.time_ns(), self._digest
        part = Part(self._engine, self._num_parts, self._columns) if self._num_parts > 1 else None
        prefix = self._request_prefix
        req_ids = [prefix + req_id for req_id in view.req_ids] if prefix else view.req_ids

        def build() -> tuple[Frame, FrameArrays]:
            ready()
            frame = Frame(
                worker=self._number,
                step=step,
                watchlist=digest,
                req_ids=req_ids,
                row_starts=view.row_starts,
                tap_calls=host[3].tolist(),
                num_features=host[0].shape[1],
                time_ns=now,
                dropped_frames=self._outbox.num_dropped,
                num_drafts=view.num_drafts,
                part=part,
            )
            return frame, FrameArrays(*(tensor.numpy() for tensor in host[:3]))

        return build


def arm(worker: Any) -> None:
    """Watch this worker, if it is configured; called once, after its model is loaded.

    Raises:
        SaeguardError: this worker cannot be watched as configured; the monitor has been told.
    """
    config = load_settings(worker.vllm_config)
    if config is None:
        return
    watchlist = wl.load(config.watchlist)
    kind = ThreadedOutbox if worker.device.type == "cuda" else DirectOutbox
    inbox = inbox_endpoint(worker.vllm_config, config)
    outbox = kind(inbox, _max_pending(worker, watchlist))
    listener = ControlListener(control_endpoint(worker.vllm_config, config), inbox)
    try:
        require_worker(worker)
        monitor = WorkerMonitor(worker, config.watchlist, watchlist, outbox)
    except Exception as error:
        status = TapStatus(rank=worker_number(worker), alive=False, reason=str(error))
        outbox.post(lambda: (status, None))
        outbox.close()
        listener.close()
        raise
    execute_model, warm_up = worker.execute_model, worker.compile_or_warm_up_model
    shutdown = worker.shutdown

    def execute_and_observe(scheduler_output: Any) -> Any:
        monitor.before_step()
        output = execute_model(scheduler_output)
        monitor.after_step(scheduler_output)
        return output

    def warm_up_and_check(*args: Any, **kwargs: Any) -> Any:
        result = warm_up(*args, **kwargs)
        # Not before: a device allocation of another thread would spoil the capture of CUDA graphs.
        listener.start(monitor.swap.answer, monitor.fault)
        if worker.model_config.enforce_eager:
            monitor.report(True)  # there may have been no warm-up: the frames' counters tell
            return result
        try:
            monitor.check_alive()
        except UnsupportedError as error:
            if config.fail == "closed":
                raise
            logger.error("saeguard is BLIND on this worker: %s. Serving goes on.", error)
        return result

    def shut_down_all(*args: Any, **kwargs: Any) -> Any:
        listener.close()
        outbox.close()
        return shutdown(*args, **kwargs)

    # On the instance: other engines of this process, and unconfigured ones, keep vLLM's own
    # methods.
    worker.execute_model = execute_and_observe
    worker.compile_or_warm_up_model = warm_up_and_check
    worker.shutdown = shut_down_all
    worker.saeguard = monitor
    logger.info("saeguard watches %s", monitor.watched)


def _max_pending(worker: Any, watchlist: wl.Watchlist) -> int:
    """How many frames may wait for the monitor: 256 MiB of the largest there can be."""
    row_bytes = 8 + sum(4 * capacity_for(len(site.features)) for site in watchlist.sites)
    max_tokens = int(worker.vllm_config.scheduler_config.max_num_batched_tokens)
    return min(max(16, _MAX_PENDING_BYTES // (row_bytes * max_tokens)), 10_000)


def _is_first_tensor_parallel_rank() -> bool:
    from vllm.distributed.parallel_state import get_tensor_model_parallel_rank

    return bool(get_tensor_model_parallel_rank() == 0)
