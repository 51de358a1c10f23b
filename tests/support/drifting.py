"""Requests whose scores are drawn from distributions that a test knows."""

from __future__ import annotations

import numpy as np

from saeguard.rules import RequestContext
from saeguard.rules.recordings.offline import RecordedRequest

COLUMNS = ("lie", "probe")
"""A sparse feature of an SAE, and a linear probe."""


def requests(
    number: int,
    seed: int,
    density: float = 0.1,
    scale: float = 1.0,
    shift: float = 0.0,
    tag: str | None = None,
) -> list[RecordedRequest]:
    """Tokens of one request are alike: how often the feature fires, how high, and the probe's level
    are drawn for each request, and the tokens around that.
    """
    rng = np.random.default_rng(seed)
    found = []
    for i in range(number):
        num_tokens = int(rng.integers(8, 40))
        rate = rng.beta(4 * density, 4 * (1 - density)) if density else 0.0
        heights = rng.gamma(4, scale, num_tokens) * rng.uniform(0.7, 1.3)
        lie = np.where(rng.random(num_tokens) < rate, heights, 0.0)
        probe = rng.normal(rng.normal(shift - 4, 1.5), 0.5, num_tokens)
        found.append(request(f"{seed if tag is None else tag}-{i}", lie, probe))
    return found


def request(name: str, lie: np.ndarray, probe: np.ndarray) -> RecordedRequest:
    """An answer; scores [tokens]."""
    return RecordedRequest(
        context=RequestContext(id=name),
        columns=COLUMNS,
        scores=np.stack([lie, probe], axis=1).astype(np.float32),
        positions=np.arange(1, len(lie) + 1, dtype=np.int32),
        phases=np.full(len(lie), 3, np.uint8),
    )
