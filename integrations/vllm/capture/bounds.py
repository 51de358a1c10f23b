"""How much a capture takes at once, in the memory of the monitor and on the disk.

A request of 4,000 tokens has 16 kB of scores of one feature, and 262 MB of activations of four
layers of a model that is 4,096 wide. Whatever is on its way belongs to one batch, and the next one
waits until that is recorded: so a bound on batches is a bound on everything.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from saeguard.monitor.errors import SaeguardError

LONGEST = 16_384
"""Tokens of a request that are recorded at most."""
STORE_MIB = 1024
"""Of the monitor's store, which is read batch by batch."""

_BATCH_BYTES = 128 << 20
_MANY, _FEW = 256, 64
_NARROW = 16
"""Columns. The monitor's table begins with 64 requests, and with more columns it should not grow:
for 256 requests of 256 columns it would take 4 GB."""
_RECORD_BYTES = 512 << 20
"""Of one request: SQLite takes no value of 1 GB."""
_SLOTS = 64

T = TypeVar("T")


class DiskFullError(SaeguardError):
    """No more is recorded, so as not to fill the disk."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What goes with so many columns."""

    num_columns: int

    @property
    def row_bytes(self) -> int:
        """Of one token."""
        return 4 * self.num_columns

    @property
    def max_requests(self) -> int:
        """Of a batch."""
        return _MANY if self.num_columns <= _NARROW else _FEW

    @property
    def record_tokens(self) -> int:
        """How many of a request's last tokens are recorded: as many as its record may have bytes,
        and as half of this machine's memory has room for in each place of the monitor's table.
        """
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        per_request = min(_RECORD_BYTES, memory // 2 // _SLOTS)
        return max(1, min(LONGEST, per_request // self.row_bytes))

    def num_bytes(self, num_tokens: int) -> int:
        """Of a request's record."""
        return self.row_bytes * min(num_tokens, self.record_tokens)

    def has_room(self, num_requests: int, num_bytes: int) -> bool:
        """Whether a batch of so much may be."""
        return num_requests <= self.max_requests and num_bytes <= _BATCH_BYTES

    def batches(self, sized: Iterable[tuple[T, int]]) -> Iterator[list[T]]:
        """Requests with their numbers of tokens, in their order; in each batch as many as there is
        room for, and one at least.
        """
        batch: list[T] = []
        num_bytes = 0
        for request, num_tokens in sized:
            more = self.num_bytes(num_tokens)
            if batch and not self.has_room(len(batch) + 1, num_bytes + more):
                yield batch
                batch, num_bytes = [], 0
            batch.append(request)
            num_bytes += more
        if batch:
            yield batch


@dataclass(frozen=True, slots=True)
class Disk:
    """Where it is recorded."""

    directory: Path
    max_bytes: int

    def check(self, used: int, more: int) -> None:
        """
        Raises:
            DiskFullError: `more` bytes beside those that are used would be over the bound, or more
                than the disk has left.
        """
        if used + more > self.max_bytes:
            raise DiskFullError(
                f"{self.directory}: holds {_gib(used)}, and {_gib(more)} more would be over the "
                f"{_gib(self.max_bytes)} that it may take",
                "raise --max-disk-gib, or record fewer hook points or requests",
            )
        free = shutil.disk_usage(self.directory).free
        if 2 * more > free:  # a shard is written beside the old ones, the store beside it
            raise DiskFullError(
                f"{self.directory}: {_gib(more)} more do not fit: its disk has {_gib(free)} left"
            )


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.2f} GiB"
