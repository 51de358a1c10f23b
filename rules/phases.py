"""The parts of a conversation that a token can belong to."""

from __future__ import annotations

from enum import IntEnum


class Phase(IntEnum):
    """One code per token, small enough for a uint8 array. Rule files use the lower-case names."""

    SYSTEM = 0
    PROMPT = 1
    REASONING = 2
    ANSWER = 3
    TOOL_CALL = 4

    @classmethod
    def parse(cls, name: str) -> Phase:
        """The phase that a rule file calls `name`.

        Raises:
            ValueError: there is no such phase.
        """
        for phase in cls:
            if name == str(phase):
                return phase
        raise ValueError(f"unknown phase {name!r}; the phases are {', '.join(map(str, cls))}")

    def __str__(self) -> str:
        return self.name.lower()
