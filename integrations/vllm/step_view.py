"""Which rows of a step belong to which request: one adapter per model runner, found by its
features.

Rows come from the runner's own batch, never from the scheduler's dictionary order: the two differ.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

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
    positions: torch.Tensor  # [tokens] integer, on the device
    num_drafts: list[int]
    """[requests], how many of each one's last rows read tokens that a drafter proposed; empty:
    none at all."""

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
    has_buffers = hasattr(getattr(runner, "input_ids", None), "gpu") and hasattr(
        runner, "positions"
    )
    if hasattr(batch, "req_ids") and has_buffers:
        return _view_v1
    raise UnsupportedError(f"model runner {type(runner).__name__} has an unknown batch layout")


def _view_v1(runner: Any, scheduler_output: Any) -> StepView | None:
    scheduled = scheduler_output.num_scheduled_tokens
    req_ids = list(runner.input_batch.req_ids)
    starts = [0, *accumulate(scheduled[req_id] for req_id in req_ids)]
    # What the forward pass itself read: with speculation under asynchronous scheduling the counts
    # on the host take every draft for accepted, and are put right some time later.
    return StepView(
        req_ids,
        starts,
        runner.input_ids.gpu[: starts[-1]],
        runner.positions[: starts[-1]],
        _num_drafts(req_ids, scheduler_output),
    )


def _view_v2(runner: Any, scheduler_output: Any) -> StepView | None:
    state = runner.execute_model_state
    if state is None:  # nothing was forwarded
        return None
    batch = state.input_batch
    req_ids = list(batch.req_ids)
    starts = [int(start) for start in batch.query_start_loc_np[: len(req_ids) + 1]]
    return StepView(
        req_ids,
        starts,
        batch.input_ids[: starts[-1]],
        batch.positions[: starts[-1]],
        _num_drafts(req_ids, scheduler_output),
    )


def _num_drafts(req_ids: list[str], scheduler_output: Any) -> list[int]:
    drafts = scheduler_output.scheduled_spec_decode_tokens
    return [len(drafts.get(req_id, ())) for req_id in req_ids] if drafts else []
