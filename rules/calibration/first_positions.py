"""Where rules first match in recorded requests: many requests at once, and nothing but the place.

The engine that serves runs, as in `play`; but since limits and correlations do not matter here,
requests need not come one after the other, and no match tells why.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from saeguard.rules.decisions.decide import exception_for
from saeguard.rules.engine import Engine
from saeguard.rules.model import RuleSet
from saeguard.rules.recordings.offline import RecordedRequest, check_columns

NEVER = -1
_BATCH_TOKENS = 8192
_BATCH = 256


def first_positions(
    ruleset: RuleSet, requests: Sequence[RecordedRequest]
) -> dict[str, npt.NDArray[np.int64]]:
    """Of each rule with signals the position of its first match in each request; else `NEVER`.

    A match that a limit would hold back counts, one that an exception lets off does not.

    Raises:
        RecordingError: a request has no scores of a feature that the rules read.
    """
    needed = ruleset.used_features()
    for request in requests:
        check_columns(request, needed)
    found = {rule.name: np.full(len(requests), NEVER) for rule in ruleset.rules if rule.signals}
    engines: dict[tuple[str, ...], Engine] = {}
    for batch in _batches(requests):
        columns = requests[batch[0]].columns
        if columns not in engines:
            engines[columns] = Engine(ruleset, columns, max_requests=_BATCH, tells_why=False)
        _play(engines[columns], batch, requests, found)
    return found


def _batches(requests: Sequence[RecordedRequest]) -> Iterator[list[int]]:
    """Numbers of requests with the same columns, so many as fit."""
    by_columns: dict[tuple[str, ...], list[int]] = {}
    for i, request in enumerate(requests):
        by_columns.setdefault(request.columns, []).append(i)
    for numbers in by_columns.values():
        batch: list[int] = []
        num_tokens = 0
        for i in numbers:
            num_tokens += len(requests[i].positions)
            if batch and (num_tokens > _BATCH_TOKENS or len(batch) == _BATCH):
                yield batch
                batch, num_tokens = [], len(requests[i].positions)
            batch.append(i)
        yield batch


def _play(
    engine: Engine,
    batch: Sequence[int],
    requests: Sequence[RecordedRequest],
    found: dict[str, npt.NDArray[np.int64]],
) -> None:
    keys = {str(i): i for i in batch}
    played = [requests[i] for i in batch]
    for key, request in zip(keys, played, strict=True):
        engine.start(key, request.context)
    matches = engine.observe(
        list(keys),
        np.cumsum([0, *(len(request.positions) for request in played)]),
        np.concatenate([request.scores for request in played]),
        np.concatenate([request.positions for request in played]),
        np.concatenate([request.phases for request in played]),
    )
    for match in matches:  # in the order of tokens
        rule, i = match.rule, keys[match.key]
        positions = found[rule.name]
        if positions[i] == NEVER and not (
            rule.exceptions and exception_for(rule, requests[i].context, requests[i].time_ns)
        ):
            positions[i] = match.position
    for key in keys:
        engine.finish(key)
