"""Activations of a model, in recordings: what `saeguard capture --activations` writes.

A captured hook point has one column per coordinate, `blocks.3.hook_resid_post/0` and so on; columns
of watched features may stand beside them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from saeguard.monitor.errors import ConfigError, UnsupportedError
from saeguard.monitor.sites import HookPoint
from saeguard.rules.recordings.offline import RecordedRequest

Floats = npt.NDArray[np.float32]

_REMEDY = "record them with: saeguard capture MODEL --data D --activations HOOK_POINT"


def column_names(hook_point: HookPoint, num_inputs: int) -> tuple[str, ...]:
    """Of each coordinate of what is read there."""
    return tuple(f"{hook_point}/{i}" for i in range(num_inputs))


def hook_points_of(request: RecordedRequest) -> tuple[HookPoint, ...]:
    """Where the request's activations were captured, from the first layer on; none: nowhere."""
    return tuple(sorted(_coordinates(request.columns)))


def activations_at(request: RecordedRequest, hook_point: HookPoint) -> Floats:
    """What the hook point had to say of each recorded token.

    Returns:
        [tokens, inputs]; NaN in tokens that were not observed. A view where that is possible.

    Raises:
        ConfigError: it was not captured there, or not all of its coordinates were.
    """
    coordinates = _coordinates(request.columns)
    where = request.source or request.context.id
    if hook_point not in coordinates:
        others = ", ".join(map(str, sorted(coordinates))) or "none"
        raise ConfigError(
            f"{where}: has no activations of {hook_point}; those it has: {others}", _REMEDY
        )
    columns = coordinates[hook_point]
    if columns is None:
        raise ConfigError(f"{where}: some coordinates of {hook_point} are missing", _REMEDY)
    return request.scores[:, columns]


@lru_cache(maxsize=16)  # thousands of requests have the same columns
def _coordinates(columns: tuple[str, ...]) -> Mapping[HookPoint, slice | list[int] | None]:
    """Which columns are the coordinates of each hook point, in order; None: some are missing."""
    found: dict[str, dict[int, int]] = {}
    for place, column in enumerate(columns):
        name, slash, number = column.rpartition("/")
        if slash and number.isdecimal():
            found.setdefault(name, {})[int(number)] = place
    coordinates: dict[HookPoint, slice | list[int] | None] = {}
    for name, places in found.items():
        try:
            coordinates[HookPoint.parse(name)] = _in_order(places)
        except UnsupportedError:  # a feature that somebody has named so
            continue
    return coordinates


def _in_order(places: Mapping[int, int]) -> slice | list[int] | None:
    """The columns of coordinates 0, 1, ..."""
    if sorted(places) != list(range(len(places))):
        return None
    order = [places[i] for i in range(len(places))]
    first = order[0]
    is_run = order == list(range(first, first + len(order)))
    return slice(first, first + len(order)) if is_run else order
