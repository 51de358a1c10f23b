"""Takes the decode steps of a batch together: one evaluation of several tokens per request costs
little more than one of a single token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
import numpy as np

from saeguard.monitor.messages import Frame, FrameArrays

Step = tuple[Frame, FrameArrays]


def merged(steps: Sequence[Step]) -> Iterator[Step]:
    """The same rows in fewer frames: neighbours become one where nothing is lost by it.

    A merged frame has the time of its first step, so that latencies are not made to look better.
    Steps of data-parallel engines, which come mixed, are taken engine by engine.
    """
    run: list[Step] = []
    for step in sorted(steps, key=lambda step: step[0].worker):
        if run and not _continues(run[-1], step):
            yield _join(run)
            run = []
        run.append(step)
    if run:
        yield _join(run)


def _continues(before: Step, after: Step) -> bool:
    """Decode steps of the same requests, each one token on, and the taps ran in between."""
    (a, rows_a), (b, rows_b) = before, after
    return (
        a.worker == b.worker
        and a.watchlist == b.watchlist
        and len(a.req_ids) == a.row_starts[-1] == b.row_starts[-1]
        and a.req_ids == b.req_ids
        and len(a.tap_calls) == len(b.tap_calls)
        and all(new > old for old, new in zip(a.tap_calls, b.tap_calls, strict=True))
        and bool((rows_b.positions == rows_a.positions + 1).all())
    )


def _join(run: list[Step]) -> Step:
    if len(run) == 1:
        return run[0]
    (first, _), (last, _) = run[0], run[-1]
    num_steps, num_rows = len(run), len(run) * len(last.req_ids)
    scores = np.stack([rows.scores for _, rows in run], axis=1)  # [requests, steps, features]
    token_ids = np.stack([rows.token_ids for _, rows in run], axis=1)
    positions = np.stack([rows.positions for _, rows in run], axis=1)
    frame = msgspec.structs.replace(
        last, time_ns=first.time_ns, row_starts=list(range(0, num_rows + 1, num_steps))
    )
    arrays = FrameArrays(scores.reshape(num_rows, -1), token_ids.ravel(), positions.ravel())
    return frame, arrays
