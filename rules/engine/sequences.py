"""Step sequences, online: steps that come true one after the other, across the phases of a request.

A *chain* is a first step with later ones after it. Of the chains that have come as far as step i
only the one with the newest first step matters: whatever follows suits all of them, and it is the
last to grow older than `within`. So per step one number is kept, the position of that first step.

On each token the steps are tried from the last to the first, since one token cannot be two steps of
a chain. `unless` comes before them all: it cancels what began earlier, and a first step on the same
token begins anew.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from saeguard.rules.model import StepSequence

UNLESS = -1


class Sequences:
    """The chains of some rules, in every slot."""

    def __init__(self, sequences: Mapping[int, StepSequence]) -> None:
        self._sequences = sequences
        self._chains: dict[tuple[int, int], list[int | None]] = {}

    def forget(self, slot: int) -> None:
        """A new request has the slot."""
        for rule in self._sequences:
            self._chains.pop((slot, rule), None)

    def observe(self, slot: int, rule: int, position: int, steps: Collection[int]) -> int | None:
        """Take a token on which some steps of a rule are true.

        Args:
            slot: the request's.
            rule: which sequence.
            position: the token's.
            steps: numbers of the steps, `UNLESS` among them.

        Returns:
            The position of the first step, if the token completes a match.
        """
        if UNLESS in steps:
            self._chains.pop((slot, rule), None)
        chains = self._chains.get((slot, rule))
        if chains is None:
            if 0 not in steps:
                return None
            chains = self._chains[slot, rule] = [None] * (len(self._sequences[rule].steps) - 1)
        first = self._advance(chains, self._sequences[rule].within, position, steps)
        if first is not None:
            chains[:] = [None] * len(chains)
        if 0 in steps:
            chains[0] = position
        return first

    def _advance(
        self, chains: list[int | None], within: int, position: int, steps: Collection[int]
    ) -> int | None:
        """Steps after the first, from the last on: the first step of a chain that is complete."""
        first = chains[-1] if len(chains) in steps else None
        if first is not None and position - first <= within:
            return first
        for step in range(len(chains) - 1, 0, -1):
            if step in steps and chains[step - 1] is not None:
                chains[step] = chains[step - 1]
        return None
