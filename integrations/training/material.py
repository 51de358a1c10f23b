"""What probes are trained on: the activations of the tokens that a rule would look at.

The prompt is left out when a request is read, so that memory holds answers only.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from saeguard.integrations.discovery.activations import activations_at, hook_points_of
from saeguard.monitor.errors import ConfigError
from saeguard.monitor.sites import HookPoint
from saeguard.rules.calibration.backtest import NO_SOURCE
from saeguard.rules.calibration.labels import Example
from saeguard.rules.phases import Phase
from saeguard.rules.recordings.offline import RecordedRequest

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """Which request and which phase run each token is of; tokens of a request are neighbours."""

    request: npt.NDArray[np.intp]
    """[tokens], rising from 0 without a gap."""
    run: npt.NDArray[np.intp]
    """[tokens], rising: aggregates begin anew with each phase run."""
    observed: Flags = field(repr=False)
    """[tokens]; False where an activation is NaN."""
    taught: Flags = field(repr=False)
    """[tokens]; observed, and in the label's span where it has one: what probes learn from."""

    @property
    def request_starts(self) -> npt.NDArray[np.intp]:
        """[requests]"""
        return _starts(self.request)

    @property
    def run_starts(self) -> npt.NDArray[np.intp]:
        """[tokens]: where the run of each begins."""
        starts = _starts(self.run)
        return np.repeat(starts, np.diff(starts, append=len(self.run)))


@dataclass(frozen=True, slots=True, eq=False)
class Material:
    """Labelled requests with the activations of their answers."""

    ids: tuple[str, ...]
    labels: Flags
    """[requests]"""
    groups: tuple[str, ...]
    sources: tuple[str, ...]
    tokens: Tokens
    activations: Mapping[HookPoint, Floats] = field(repr=False)
    """[tokens, inputs]; NaN where not observed."""
    num_unobserved: int
    """Tokens left out, because an activation of theirs is NaN."""
    num_empty: int
    """Requests left out, since nothing of their answer was recorded."""
    num_unjudged: int
    """Requests left out, since their label says nothing of what is looked for."""

    def at(self, hook_point: HookPoint) -> Floats:
        """[tokens, inputs]"""
        return self.activations[hook_point]


def only_phases(
    requests: Iterable[RecordedRequest], phases: Collection[Phase]
) -> Iterator[RecordedRequest]:
    """The requests without most tokens of other phases: those that follow a run are kept, since
    they tell where it ends.
    """
    for request in requests:
        kept = _are_of(phases, request)
        kept[1:] |= kept[:-1].copy()
        yield replace(
            request,
            scores=request.scores[kept],
            positions=request.positions[kept],
            phases=request.phases[kept],
            token_ids=None,
        )


def gather(
    examples: Sequence[Example],
    name: str,
    hook_points: Sequence[HookPoint],
    phases: Collection[Phase],
) -> Material:
    """The activations of all requests, side by side.

    Args:
        examples: as `only_phases` leaves them.
        name: what is looked for, where labels tell several things apart.
        hook_points: none: all that were captured.
        phases: in which a rule would look.

    Raises:
        ConfigError: nothing is left, a hook point was not captured, or requests differ in width.
    """
    judged = [example for example in examples if example.answer(name) is not None]
    kept = [example for example in judged if _is_recorded(example.request, phases)]
    if not judged:
        raise ConfigError(f"no label says whether a request is {name!r}", "name it with --name")
    if not kept:
        raise ConfigError("no request has an answer that was recorded", "see --phase")
    found = tuple(hook_points) or hook_points_of(kept[0].request)
    if not found:
        raise ConfigError(
            f"{_where(kept[0])}: holds no activations, only {', '.join(kept[0].request.columns)}",
            "record them with: saeguard capture MODEL --data D --activations HOOK_POINT",
        )
    wanted = [_are_of(phases, example.request) for example in kept]
    activations = {at: _side_by_side(kept, wanted, at) for at in found}
    tokens = _tokens(kept, wanted, list(activations.values()))
    return Material(
        ids=tuple(example.label.id for example in kept),
        labels=np.array([bool(example.answer(name)) for example in kept]),
        groups=tuple(example.group for example in kept),
        sources=tuple(example.label.source or NO_SOURCE for example in kept),
        tokens=tokens,
        activations=activations,
        num_unobserved=int((~tokens.observed).sum()),
        num_empty=len(judged) - len(kept),
        num_unjudged=len(examples) - len(judged),
    )


def _are_of(phases: Collection[Phase], request: RecordedRequest) -> Flags:
    """[tokens]"""
    return np.isin(request.phases, [phase.value for phase in phases])


def _is_recorded(request: RecordedRequest, phases: Collection[Phase]) -> bool:
    of_phases = _are_of(phases, request)
    return bool((~np.isnan(request.scores[of_phases])).all(axis=1).any())


def _where(example: Example) -> str:
    return example.request.source or example.label.id


def _side_by_side(
    examples: Sequence[Example], wanted: Sequence[Flags], hook_point: HookPoint
) -> Floats:
    parts = []
    for example, kept in zip(examples, wanted, strict=True):
        parts.append(activations_at(example.request, hook_point)[kept])
        if parts[-1].shape[1] != parts[0].shape[1]:
            raise ConfigError(
                f"{_where(example)}: {hook_point} is {parts[-1].shape[1]} wide, and "
                f"{parts[0].shape[1]} in {_where(examples[0])}: two models"
            )
    return np.concatenate(parts)


def _tokens(
    examples: Sequence[Example], wanted: Sequence[Flags], activations: Sequence[Floats]
) -> Tokens:
    lengths = [len(example.request.positions) for example in examples]
    request = np.repeat(np.arange(len(examples)), lengths)
    phases = np.concatenate([example.request.phases for example in examples])
    positions = np.concatenate([example.request.positions for example in examples])
    run = np.cumsum((np.diff(request, prepend=0) != 0) | (np.diff(phases, prepend=0) != 0))
    spans = [example.label.span or (0, np.iinfo(np.int64).max) for example in examples]
    first, end = np.repeat(np.array(spans), lengths, axis=0).T
    in_span = (positions >= first) & (positions < end)
    kept = np.concatenate(wanted)
    observed = np.logical_and.reduce([~np.isnan(x).any(axis=1) for x in activations])
    return Tokens(request[kept], run[kept], observed, observed & in_span[kept])


def _starts(numbers: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    return np.flatnonzero(np.diff(numbers, prepend=-1))
