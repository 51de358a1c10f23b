"""Several features made one on each token: the largest, the sum, the subspace energy, the angle.

What is made is a float32 score like any other and gets a column of its own; everything after this
knows columns only.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from saeguard.rules.engine.aggregates import Indices, Numbers, Scores
from saeguard.rules.model import Aggregate, Combine

Source = tuple[tuple[str, ...], Combine | None]


class Columns:
    """The columns that aggregates read: the given ones, and one more for each group."""

    def __init__(self, aggregates: Iterable[Aggregate], columns: Iterable[str]) -> None:
        self._column_of: dict[Source, int] = {}
        for column, name in enumerate(columns):
            self._column_of.setdefault(((name,), None), column)
        self.num_given = len(list(columns))
        self._groups: list[tuple[Combine, Indices]] = []
        for aggregate in aggregates:
            source = (aggregate.features, aggregate.combine)
            if aggregate.combine is not None and source not in self._column_of:
                members = np.array([self._column_of[(name,), None] for name in aggregate.features])
                self._column_of[source] = self.num_given + len(self._groups)
                self._groups.append((aggregate.combine, members))

    def __len__(self) -> int:
        return self.num_given + len(self._groups)

    def of(self, aggregate: Aggregate) -> int:
        """The column that it reads."""
        return self._column_of[aggregate.features, aggregate.combine]

    def of_feature(self, name: str) -> int:
        return self._column_of[(name,), None]

    def extend(self, scores: Scores) -> Scores:
        """[tokens, given] -> [tokens, all]. A group with an unobserved member is unobserved."""
        if not self._groups:
            return scores
        extended = np.empty((len(scores), len(self)), np.float32)
        extended[:, : self.num_given] = scores
        for column, (combine, members) in enumerate(self._groups, self.num_given):
            extended[:, column] = _combined(combine, scores[:, members].astype(np.float64))
        return extended


def _combined(combine: Combine, scores: Numbers) -> Numbers:
    combined: Numbers
    match combine:
        case "max":
            combined = scores.max(axis=1)
        case "sum":
            combined = scores.sum(axis=1)
        case "l2":
            combined = np.sqrt((scores * scores).sum(axis=1))
        case "angle":
            first, second = scores[:, 0], scores[:, 1]
            combined = np.degrees(np.arctan2(second, first))
            combined[(first == 0) & (second == 0)] = np.nan
    return combined
