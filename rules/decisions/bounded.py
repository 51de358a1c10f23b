"""State that is kept per group, for as long as it can matter, and never without bound."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

State = TypeVar("State")

MAX_GROUPS = 10_000


class Groups(Generic[State]):
    """Groups in the order of their last use; one unused for longer than `span_ns` is forgotten."""

    def __init__(
        self, make: Callable[[], State], span_ns: float, max_groups: int = MAX_GROUPS
    ) -> None:
        """
        Args:
            make: the state of a new group.
            span_ns: how long state outlives its last use; may be infinite.
            max_groups: when there are more, the longest unused one goes and is counted.
        """
        self.num_evicted = 0
        """Groups that might still have mattered when they made room."""
        self._make = make
        self._span_ns = span_ns
        self._max_groups = max_groups
        self._groups: OrderedDict[Hashable, tuple[int, State]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._groups)

    def use(self, key: Hashable, now_ns: int) -> State:
        """The group's state. Time must not run backwards."""
        self._forget_before(now_ns - self._span_ns)
        state = self._groups.pop(key)[1] if key in self._groups else self._make()
        self._groups[key] = now_ns, state
        if len(self._groups) > self._max_groups:
            self._groups.popitem(last=False)
            self.num_evicted += 1
        return state

    def drop(self, key: Hashable) -> None:
        """Forget a group, if there is such a one."""
        self._groups.pop(key, None)

    def _forget_before(self, time_ns: float) -> None:
        while self._groups:
            last_use_ns, _ = next(iter(self._groups.values()))
            if last_use_ns >= time_ns:
                return
            self._groups.popitem(last=False)
