"""Stored requests as recordings, for tests and comparisons of rules."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from saeguard.monitor.alerts import RequestRecord
from saeguard.rules import RequestContext
from saeguard.rules.recordings.offline import RecordedRequest


def recorded_request(record: RequestRecord) -> RecordedRequest:
    """What was recorded of the request, at the time of its start."""
    num_rows = len(record.phases)
    return RecordedRequest(
        context=RequestContext(
            model=record.model,
            lora=record.lora,
            tenant=record.tenant,
            client=record.client,
            id=record.request_id,
        ),
        columns=tuple(record.features),
        scores=record.score_array(),
        positions=np.arange(
            record.first_recorded, record.first_recorded + num_rows, dtype=np.int32
        ),
        phases=phase_codes(record),
        token_ids=None if record.token_ids is None else np.array(record.token_ids, np.int32),
        time_ns=record.start_time_ns,
        watchlist=record.watchlist,
    )


def phase_codes(record: RequestRecord) -> npt.NDArray[np.uint8]:
    """The phase of each row; a row that was not observed is in that of the row before it."""
    phases = np.frombuffer(record.phases, np.uint8)
    is_unseen = np.isnan(record.score_array()).all(axis=1)
    last_seen = np.maximum.accumulate(np.where(is_unseen, 0, np.arange(len(phases))))
    return np.asarray(phases[last_seen])


def num_evaluated(record: RequestRecord) -> int:
    """How many tokens the model has read: all but the last of its output."""
    return record.prompt_len + max(0, record.num_tokens - record.prompt_len - 1)


def num_recorded(record: RequestRecord) -> int:
    """How many of them have a score. The first never has one, and counts where it was seen."""
    is_observed = np.asarray(~np.isnan(record.score_array()).all(axis=1))
    if record.first_recorded == 0:
        is_observed[:1] = True
    return int(is_observed.sum())
