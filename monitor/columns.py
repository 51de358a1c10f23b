"""Score columns by name: frames of another watchlist have them in other places."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from saeguard.monitor.messages import Floats

Order = npt.NDArray[np.intp]
"""[wanted]: in which column of a frame each wanted feature is; -1 where it is in none."""


def order_of(wanted: Sequence[str], columns: Sequence[str]) -> Order:
    places = {name: i for i, name in enumerate(columns)}
    return np.array([places.get(name, -1) for name in wanted], np.intp)


def arranged(scores: Floats, order: Order) -> Floats:
    """The scores in the wanted order, [tokens, wanted]; NaN where a frame lacks a column."""
    lacking = np.full((len(scores), 1), np.nan, np.float32)
    found: Floats = np.concatenate([scores, lacking], axis=1)[:, order]
    return found
