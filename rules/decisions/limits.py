"""How many matches of a rule become alerts, where the engine's count per request does not tell."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from math import inf

from saeguard.rules.decisions.bounded import MAX_GROUPS, Groups
from saeguard.rules.model import Limit


class Limiter:
    """Admits at most `limit.max` alerts of one rule, in any span of `limit.every_s`, per group."""

    def __init__(self, limit: Limit, max_groups: int = MAX_GROUPS) -> None:
        self._max = limit.max
        self._every_ns = inf if limit.every_s is None else limit.every_s * 1e9
        self.alerts: Groups[deque[int]] = Groups(deque, self._every_ns, max_groups)
        """Group -> times of its alerts within the span, oldest first."""

    def admits(self, group: Hashable, now_ns: int) -> bool:
        """Whether one more alert is within the limit; if so it is counted."""
        times_ns = self.alerts.use(group, now_ns)
        while times_ns and now_ns - times_ns[0] >= self._every_ns:
            times_ns.popleft()
        if len(times_ns) >= self._max:
            return False
        times_ns.append(now_ns)
        return True
