"""Labelled requests with captured activations, read shard by shard: their activations may be
larger than memory.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from saeguard.integrations.discovery.activations import Floats, activations_at, hook_points_of
from saeguard.monitor.errors import ConfigError
from saeguard.monitor.sites import HookPoint
from saeguard.rules.calibration.labels import Example, LabelError, match_labels, read_labels
from saeguard.rules.phases import Phase
from saeguard.rules.recordings.offline import RecordedRequest, RecordingError
from saeguard.rules.recordings.recording import read_recordings

Which = npt.NDArray[np.bool_]
"""[requests]"""


@dataclass(frozen=True, slots=True)
class Corpus:
    """Requests whose label is known, and where the activations of their tokens are.

    A request's tokens are here those of one phase, as long as they were observed.
    """

    shards: tuple[Path, ...]
    phase: Phase
    hook_points: tuple[HookPoint, ...]
    ids: tuple[str, ...]
    labels: Which
    groups: tuple[str, ...]
    """Of each request; a request without a group is one by itself."""
    sources: tuple[str, ...]
    """Empty where a label has none."""
    splits: tuple[str, ...]
    num_tokens: npt.NDArray[np.intp]
    first_positions: npt.NDArray[np.intp]
    """Of each request's first token of the phase."""
    num_left_out: int = 0
    """Recorded requests without a label, or without a token of the phase."""

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def read(
        cls,
        shards: Sequence[Path],
        data: Path,
        phase: Phase = Phase.ANSWER,
        positive: Collection[str] = (),
        name: str | None = None,
    ) -> Self:
        """
        Args:
            shards: recordings.
            data: a file of labels.
            positive: the words that mean yes, where labels are words.
            name: which answer is meant, where a label has several by name.

        Raises:
            ConfigError: a file cannot be used, or a label has several answers and no `name` is
                given.
        """
        hook_points: set[HookPoint] | None = None
        slim: list[RecordedRequest] = []
        for request in _requests(shards):
            here = set(hook_points_of(request))
            hook_points = here if hook_points is None else hook_points & here
            slim.append(_without_scores(request))
        if not hook_points:
            raise ConfigError(
                f"{', '.join(map(str, shards[:1]))}: has no activations",
                "record them with: saeguard capture MODEL --data D --activations HOOK_POINT",
            )
        try:
            examples = match_labels(slim, read_labels(data), positive).examples
        except LabelError as error:
            raise ConfigError(str(error)) from error
        known = [(e, _answer(e, name, data)) for e in examples]
        kept = [
            (e, answer)
            for e, answer in known
            if answer is not None and (e.request.phases == phase).any()
        ]
        rows = [np.flatnonzero(e.request.phases == phase) for e, _ in kept]
        return cls(
            shards=tuple(shards),
            phase=phase,
            hook_points=tuple(sorted(hook_points)),
            ids=tuple(e.label.id for e, _ in kept),
            labels=np.array([answer for _, answer in kept], bool),
            groups=tuple(e.group for e, _ in kept),
            sources=tuple(e.label.source or "" for e, _ in kept),
            splits=tuple(e.label.split or "" for e, _ in kept),
            num_tokens=np.array([len(r) for r in rows], np.intp),
            first_positions=np.array(
                [e.request.positions[r[0]] for (e, _), r in zip(kept, rows, strict=True)], np.intp
            ),
            num_left_out=len(slim) - len(kept),
        )

    def tokens(self, hook_point: HookPoint) -> Iterator[tuple[int, RecordedRequest, Floats]]:
        """Of each request its number, what was recorded of its tokens, and their activations at the
        hook point, [tokens, inputs].

        Raises:
            ConfigError: a shard cannot be read, or lacks the hook point.
        """
        numbers = {name: i for i, name in enumerate(self.ids)}
        for request in _requests(self.shards):
            i = numbers.get(request.context.id)
            if i is None:
                continue
            x = activations_at(request, hook_point)
            wanted = (request.phases == self.phase) & ~np.isnan(x[:, 0])
            yield i, _without_scores(request, wanted), x[wanted]


def _requests(shards: Sequence[Path]) -> Iterator[RecordedRequest]:
    for path in shards:
        try:
            yield from read_recordings(path)
        except RecordingError as error:
            raise ConfigError(str(error)) from error


def _without_scores(request: RecordedRequest, wanted: Which | None = None) -> RecordedRequest:
    """Some of its rows, with none of the memory that its scores take."""
    rows = slice(None) if wanted is None else wanted
    ids = request.token_ids
    num_rows = len(request.positions[rows])
    return replace(
        request,
        columns=(),
        scores=np.empty((num_rows, 0), np.float32),
        positions=np.array(request.positions[rows]),
        phases=np.array(request.phases[rows]),
        token_ids=None if ids is None else np.array(ids[rows]),
    )


def _answer(example: Example, name: str | None, data: Path) -> bool | None:
    answers = example.answers
    if isinstance(answers, bool):
        return answers
    if name is None:
        raise ConfigError(
            f"{data}: the label of {example.label.id} answers for {', '.join(answers)}",
            "say which is meant: --answer NAME",
        )
    return answers.get(name)
