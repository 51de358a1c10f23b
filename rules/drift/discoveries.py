"""Which of many tests are no chance."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def q_values(p_values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Of each test the smallest false-discovery rate at which it is a discovery: of all those with
    a q-value of 0.05 or less, 5 % are chance on average at most. 1 where p is NaN: no test.

    Source: Y. Benjamini, Y. Hochberg, Controlling the false discovery rate, J. R. Stat. Soc. B 57
    (1995). Holds for tests that are independent or rise and fall together.
    """
    p = np.asarray(p_values, float)
    num = int((~np.isnan(p)).sum())
    order = np.argsort(p, kind="stable")[:num]  # NaN would be last
    scaled = p[order] * num / np.arange(1, num + 1)
    q = np.ones(len(p))
    q[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return q
