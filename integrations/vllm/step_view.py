"""Which rows of a step belong to which request: one adapter per model runner, found by its
features.

Rows come from the runner's own batch, never from the scheduler's dictionary order: the two differ.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import torch

from saeguard.monitor.errors import UnsupportedError


@dataclass(frozen=True, slots=True)
class StepView:
    """The batch of one forward pass. Row r belongs to the request with row_starts[i] <= r <
    row_starts[i + 1].
    """

    req_ids: list[str]
    row_starts: list[int]
    token_ids: torch.Tensor  # [tokens] int32, on the device
    positions: torch.Tensor  # [tokens] integer, on the device or on the host

    @property
    def num_tokens(self) -> int:
        return self.row_starts[-1]


Adapter = Callable[[Any, Any], StepView | None]


def adapter_for(runner: Any) -> Adapter:
    """The adapter of this model runner.

    Raises:
        UnsupportedError: the runner has neither of the two known shapes.
    """
    if hasattr(runner, "req_states") and hasattr(runner, "execute_model_state"):
        return _view_v2
    batch = getattr(runner, "input_batch", None)
    if all(hasattr(batch, name) for name in ("req_ids", "num_computed_tokens_cpu")) and hasattr(
        getattr(runner, "input_ids", None), "gpu"
    ):
        return _view_v1
    raise UnsupportedError(f"model runner {type(runner).__name__} has an unknown batch layout")


def _view_v1(runner: Any, scheduler_output: Any) -> StepView | None:
    batch = runner.input_batch
    scheduled = scheduler_output.num_scheduled_tokens
    req_ids = list(batch.req_ids)
    counts = [scheduled[req_id] for req_id in req_ids]
    starts = [0, *accumulate(counts)]
    # M-RoPE keeps [3, tokens] positions on the device, so count from the computed tokens instead.
    positions = batch.num_computed_tokens_cpu[: len(req_ids)]
    if starts[-1] > len(req_ids):  # not only decodes, which have one row each
        positions = np.repeat(positions - starts[:-1], counts) + np.arange(starts[-1])
    return StepView(
        req_ids, starts, runner.input_ids.gpu[: starts[-1]], torch.from_numpy(positions)
    )


def _view_v2(runner: Any, scheduler_output: Any) -> StepView | None:
    state = runner.execute_model_state
    if state is None:  # nothing was forwarded
        return None
    batch = state.input_batch
    num_reqs = len(batch.req_ids)
    starts = [int(start) for start in batch.query_start_loc_np[: num_reqs + 1]]
    return StepView(
        list(batch.req_ids), starts, batch.input_ids[: starts[-1]], batch.positions[: starts[-1]]
    )
