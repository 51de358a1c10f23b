"""Which of many tests are no chance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def q_values(p_values: Sequence[float]) -> npt.NDArray[np.float64]:
    """Of each test the smallest false-discovery rate at which it is a discovery: of all those with
    a q-value of 0.05 or less, 5 % are chance on average at most.

    Source: Y. Benjamini, Y. Hochberg, Controlling the false discovery rate, J. R. Stat. Soc. B 57
    (1995). Holds for tests that are independent or rise and fall together.
    """
    p = np.asarray(p_values, float)
    order = np.argsort(p)
    scaled = p[order] * len(p) / np.arange(1, len(p) + 1)
    q = np.empty_like(p)
    q[order] = np.minimum.accumulate(scaled[::-1])[::-1]
    return np.asarray(np.minimum(q, 1.0))
