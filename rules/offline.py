"""Runs a rule set over requests that were recorded, exactly as over live ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from saeguard.rules.decide import Decider
from saeguard.rules.engine import Engine
from saeguard.rules.matches import Decision
from saeguard.rules.model import RuleSet
from saeguard.rules.scope import RequestContext


class RecordingError(ValueError):
    """A recording cannot be read, or lacks what the rules need; the message says where."""


@dataclass(frozen=True, slots=True, eq=False)
class RecordedRequest:
    """The scores of one request, and what rules may know about it.

    Raises:
        RecordingError: the arrays disagree about the number of tokens or columns.
    """

    context: RequestContext
    columns: tuple[str, ...]
    """Name of the feature in each column of the scores."""
    scores: npt.NDArray[np.float32] = field(repr=False)
    """[tokens, columns]; NaN where not observed."""
    positions: npt.NDArray[np.int32] = field(repr=False)
    """[tokens], rising."""
    phases: npt.NDArray[np.uint8] = field(repr=False)
    """[tokens], codes of `Phase`."""
    token_ids: npt.NDArray[np.int32] | None = field(default=None, repr=False)
    """[tokens]; None where they were not captured."""
    time_ns: int = 0
    source: str = ""
    """Where it was read, for error messages: `runs.jsonl:12`."""

    def __post_init__(self) -> None:
        num_tokens = len(self.positions)
        if self.scores.shape != (num_tokens, len(self.columns)):
            raise RecordingError(
                f"{self.source}: scores are {'x'.join(map(str, self.scores.shape))}, but there are "
                f"{num_tokens} positions and {len(self.columns)} columns"
            )
        for name, array in (("phases", self.phases), ("token ids", self.token_ids)):
            if array is not None and array.shape != (num_tokens,):
                raise RecordingError(f"{self.source}: {len(array)} {name} for {num_tokens} tokens")


def play(ruleset: RuleSet, requests: Sequence[RecordedRequest]) -> Iterator[Decision]:
    """Run the rules over requests, one after the other in the order of their times.

    A match has its request's key, as `request_keys` gives it, and its request's time.

    Raises:
        RecordingError: a request has no scores of a feature that the rules read.
    """
    keys = request_keys(requests)
    for request in requests:
        _check_columns(ruleset, request)
    engines: dict[tuple[str, ...], Engine] = {}
    decider = Decider(ruleset)
    for i in sorted(range(len(requests)), key=lambda i: requests[i].time_ns):
        request, key = requests[i], keys[i]
        if request.columns not in engines:
            engines[request.columns] = Engine(ruleset, request.columns, max_requests=1)
        yield from _play_one(engines[request.columns], decider, key, request)


def request_keys(requests: Sequence[RecordedRequest]) -> list[str]:
    """A key for each request: its id, with its number in the sequence where that is not unique."""
    ids = [request.context.id for request in requests]
    uses = Counter(ids)
    return [
        name if name and uses[name] == 1 else f"{name}#{number}"
        for number, name in enumerate(ids, start=1)
    ]


def _play_one(
    engine: Engine, decider: Decider, key: str, request: RecordedRequest
) -> Iterator[Decision]:
    engine.start(key, request.context)
    row_starts = np.array([0, len(request.positions)])
    matches = engine.observe([key], row_starts, request.scores, request.positions, request.phases)
    for match in matches:
        yield from decider.decide(match, request.context, request.time_ns)
    engine.finish(key)
    decider.finish(key)


def _check_columns(ruleset: RuleSet, request: RecordedRequest) -> None:
    missing = [name for name in ruleset.used_features() if name not in request.columns]
    if missing:
        raise RecordingError(
            f"{request.source or request.context.id}: the rules read "
            f"{', '.join(missing)}, of which it has no scores; it has {', '.join(request.columns)}"
        )
