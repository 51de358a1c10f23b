"""What chance makes of a difference between two sides, with requests as the unit.

Tokens of one request are alike, so that a test which takes them for independent finds drift
everywhere. Here whole units change sides: had nothing changed, it would not matter which side they
are on. Units of the same group (the same request, run by two models) change places with each
other; the others are dealt out anew, each stratum for itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from saeguard.rules.drift.samples import Units

_BLOCK_NUMBERS = 2**22

Weights = tuple[npt.NDArray[Any], npt.NDArray[Any]]
"""How often each unit counts on the reference side and on the recent one, [draws, units] each."""


def exchanged(units: Units, num_draws: int, rng: np.random.Generator) -> list[Weights]:
    """Units on sides that were drawn, some draws in each part."""
    single = units.partner < 0
    dealt = [
        np.flatnonzero(single & (units.stratum == stratum)) for stratum in np.unique(units.stratum)
    ]
    paired = np.flatnonzero(~single & units.is_recent)
    parts = []
    for num in _blocks(num_draws, len(units)):
        recent = np.empty((num, len(units)), bool)
        for members in dealt:
            sides = np.broadcast_to(units.is_recent[members], (num, len(members)))
            recent[:, members] = rng.permuted(sides, axis=1)
        coins = rng.random((num, len(paired))) < 0.5
        recent[:, paired], recent[:, units.partner[paired]] = coins, ~coins
        parts.append((~recent, recent))
    return parts


def drawn_again(
    units: Units, num_reference: int, num_draws: int, rng: np.random.Generator
) -> list[Weights]:
    """Both sides drawn from the units, which are all of one side, with replacement: where of the
    other side only statistics are known, and of how many units.
    """
    chances = np.full(len(units), 1.0 / max(1, len(units)))
    return [
        (
            rng.multinomial(num_reference, chances, size=num).astype(np.int32),
            rng.multinomial(len(units), chances, size=num).astype(np.int32),
        )
        for num in _blocks(num_draws, len(units))
    ]


def bootstrapped(units: Units, num_draws: int, rng: np.random.Generator) -> Weights:
    """Each side and stratum drawn again from itself, with replacement."""
    weights = np.zeros((num_draws, len(units)), np.int32)
    for stratum in np.unique(units.stratum):
        for side in (False, True):
            members = np.flatnonzero((units.stratum == stratum) & (units.is_recent == side))
            if num := len(members):
                weights[:, members] = rng.multinomial(num, np.full(num, 1.0 / num), size=num_draws)
    return weights * ~units.is_recent, weights * units.is_recent


def _blocks(num_draws: int, num_units: int) -> Iterator[int]:
    step = max(1, _BLOCK_NUMBERS // max(1, num_units))
    for start in range(0, num_draws, step):
        yield min(step, num_draws - start)
