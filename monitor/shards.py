"""Work that falls into shards: what is done with one is the same in this process and elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar

Shard = TypeVar("Shard")
Result = TypeVar("Result")

Start = Callable[[], AbstractContextManager[Callable[[Shard], Result]]]
"""Makes ready what the work on any shard needs (an engine, say), and gives what does that work. Run
once in each process that works on shards: it and the shards are pickled on the way there.
"""


class Runner(Protocol):
    """Does the work on every shard, somewhere."""

    def __call__(
        self, start: Start[Shard, Result], shards: Sequence[Shard]
    ) -> Generator[Result, None, None]:
        """Results come in the order of the shards; what the first failing shard raised is raised.
        Messages name a shard as `str` does.

        Close what is returned where it is not read to its end: what was started ends with it.
        """


def run_here(start: Start[Shard, Result], shards: Sequence[Shard]) -> Generator[Result, None, None]:
    """One shard after the other, in this process."""
    with start() as work:
        yield from map(work, shards)
