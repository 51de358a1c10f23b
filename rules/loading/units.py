"""Numbers that rule files write with their unit: `32 tokens`, `10m`, `90%`."""

from __future__ import annotations

_SECONDS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}


def parse_tokens(text: str) -> int:
    """`32 tokens` is 32."""
    return int(text.split()[0])


def parse_duration(text: str) -> int:
    """`10m` is 600 seconds."""
    return int(text[:-1]) * _SECONDS[text[-1]]


def format_duration(seconds: float) -> str:
    """600 seconds are `10m`: in the largest unit of which they are a whole number."""
    unit = next((unit for unit, size in _SECONDS.items() if seconds % size == 0), "s")
    return f"{seconds / _SECONDS[unit]:g}{unit}"


def parse_percentage(text: str) -> float:
    """`90%` and `90% of max` are 90."""
    return float(text.partition("%")[0])
