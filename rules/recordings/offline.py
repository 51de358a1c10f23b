"""Runs a rule set over requests that were recorded, exactly as over live ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from saeguard.rules.decisions.decide import Decider
from saeguard.rules.engine import Engine
from saeguard.rules.matches import Decision
from saeguard.rules.model import RuleSet
from saeguard.rules.phases import Phase
from saeguard.rules.scope import RequestContext


class RecordingError(ValueError):
    """A recording cannot be read, or lacks what the rules need; the message says where."""


@dataclass(frozen=True, slots=True, eq=False)
class RecordedRequest:
    """The scores of one request, and what rules may know about it.

    Raises:
        RecordingError: the arrays do not fit together, or hold what cannot be.
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
    watchlist: str = ""
    """Digest of the watchlist whose rows made the scores; empty where that is not known."""
    source: str = ""
    """Where it was read, for error messages: `runs.jsonl:12`."""

    def __post_init__(self) -> None:
        for mistake in self._mistakes():
            raise RecordingError(f"{self.source}: {mistake}" if self.source else mistake)

    def _mistakes(self) -> Iterator[str]:
        num_tokens = len(self.positions)
        if self.scores.shape != (num_tokens, len(self.columns)):
            shape = "x".join(map(str, self.scores.shape))
            yield f"scores are {shape}, for {num_tokens} tokens and {len(self.columns)} features"
        for name, array in (("phases", self.phases), ("token ids", self.token_ids)):
            if array is not None and len(array) != num_tokens:
                yield f"{len(array)} {name} for {num_tokens} tokens"
        if len(set(self.columns)) < len(self.columns):
            yield f"a feature has two columns: {', '.join(self.columns)}"
        if np.isinf(self.scores).any():
            yield "a score is infinite"
        if (self.phases >= len(Phase)).any():
            yield f"{self.phases.max()} is the code of no phase"
        if (np.diff(self.positions, prepend=-1) <= 0).any():
            yield "positions must rise from token to token, from 0 on"
        if not 0 <= self.time_ns < 2**63:
            yield "its time is not within 1970 to 2262"


def play(ruleset: RuleSet, requests: Sequence[RecordedRequest]) -> Iterator[Decision]:
    """Run the rules over requests, one after the other in the order of their times.

    A match has its request's key, as `request_keys` gives it, and its request's time.

    Raises:
        RecordingError: a request has no scores of a feature that the rules read.
    """
    keys, needed = request_keys(requests), ruleset.used_features()
    for request in requests:
        check_columns(request, needed)
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


def check_columns(request: RecordedRequest, needed: Sequence[str]) -> None:
    """
    Raises:
        RecordingError: the request has no scores of a feature that is needed.
    """
    if missing := [name for name in needed if name not in request.columns]:
        raise RecordingError(
            f"{request.source or request.context.id}: the rules read {', '.join(missing)}, "
            f"which was not recorded; it has {', '.join(request.columns) or 'no features'}"
        )
