"""Numbers of things as people write them."""

from __future__ import annotations


def quantity(number: int, noun: str) -> str:
    """`1 alert`, `2,000 alerts`, `0 matches`; of several words the last one is the noun."""
    ending = "es" if noun.endswith(("ch", "sh", "s", "x")) else "s"
    return f"{number:,} {noun}{'' if number == 1 else ending}"
