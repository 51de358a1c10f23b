"""What a scheduler has asked for one request, and how far the monitor knows of it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from saeguard.monitor.messages import MoreInput, NewBlocks

_NEVER = 1 << 62


@dataclass(slots=True)
class RunningRequest:
    """What was asked for a request, and what was said of it."""

    request: Any
    block_size: int
    num_cached: int
    num_scheduled: int
    time_ns: int = field(default_factory=time.time_ns)
    """When it was first scheduled; so is `clock_ns`."""
    clock_ns: int = field(default_factory=time.monotonic_ns)
    prompt_len: int = 0
    """As the monitor knows it."""
    num_hashes: int = 0
    """The monitor knows so many."""
    furthest: int = 0
    """Positions below it were computed or came from the cache, up to the last preemption."""
    offset: int = 0
    """The next position to be computed is so much above `num_scheduled`."""
    next_block_at: int = 0
    """Before `num_scheduled` is that large, no other block is full."""

    @property
    def num_rows(self) -> int:
        """That were asked for or came from the cache."""
        return self.num_scheduled + self.num_cached

    def new_blocks(self) -> NewBlocks | None:
        """Those of which the monitor has not been told."""
        if not self.block_size:
            self.next_block_at = _NEVER
            return None
        first, hashes = self.num_hashes, self.request.block_hashes
        self.num_hashes = len(hashes)
        self.next_block_at = (self.num_hashes + 1) * self.block_size - self.offset
        return NewBlocks(first, hashes[first:]) if len(hashes) > first else None

    def more_input(self, num_computed: int) -> MoreInput | None:
        """What its client has added to the prompt since the monitor was told of it, when it goes on
        at a position.
        """
        if self.request.num_prompt_tokens == self.prompt_len:
            return None
        self.prompt_len = self.request.num_prompt_tokens
        if self.block_size:  # of the block that it goes on in, the hash is another now
            self.num_hashes = min(self.num_hashes, num_computed // self.block_size)
        request = self.request
        return MoreInput(request.request_id, num_computed, list(request.prompt_token_ids or ()))

    def resume(self, num_computed: int) -> tuple[int, int] | None:
        """It goes on at a position; from where to where it has skipped some that are new."""
        # Rejected drafts count as computed here. There are none before the whole prompt is
        # computed, and then the cache has nothing that is new.
        begin = max(self.furthest, self.num_scheduled + self.offset)
        self.offset = num_computed - self.num_scheduled
        self.next_block_at = 0
        self.furthest = max(begin, num_computed)
        self.num_cached += self.furthest - begin
        return (begin, num_computed) if num_computed > begin else None
