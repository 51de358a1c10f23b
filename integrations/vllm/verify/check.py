"""What was found out about one thing that watching rests on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

Result = Literal["ok", "failed", "unproven", "skipped"]
"""`unproven`: it could not be found out; `skipped`: nobody wanted to know."""

NAMES = (
    "taps", "values", "rows", "prefix cache", "ledger", "cache key", "monitor", "cost",
)  # fmt: skip

_MAX_FAULTS = 3


@dataclass(frozen=True, slots=True)
class Check:
    """What was found out about one of them."""

    name: str
    result: Result
    detail: str
    numbers: dict[str, float] = field(default_factory=dict)


def judged(name: str, faults: Sequence[str], good: str, **numbers: float) -> Check:
    """Failed where there are faults; of many, the first few are named."""
    if not faults:
        return Check(name, "ok", good, numbers)
    more = [f"and {len(faults) - _MAX_FAULTS} more"] if len(faults) > _MAX_FAULTS else []
    return Check(name, "failed", "; ".join([*faults[:_MAX_FAULTS], *more]), numbers)
