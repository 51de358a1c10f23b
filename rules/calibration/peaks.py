"""How large the largest score of a feature is in a request: what one alert's value is held against.

Positives and negatives apart; counted in the bins of `statistics.py`, so right to 2 %.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import numpy as np

from saeguard.rules.calibration.statistics import FeatureStatistics, bin_numbers
from saeguard.rules.phases import Phase
from saeguard.rules.recordings.offline import RecordedRequest

Side = Literal["positives", "negatives"]
SIDES: tuple[Side, ...] = get_args(Side)

Peaks = dict[str, dict[Phase, dict[Side, FeatureStatistics]]]
"""Of each feature in each phase: its largest score in each request in which it was observed."""


def peaks_of(requests: Sequence[RecordedRequest], is_positive: Sequence[bool]) -> Peaks:
    found: dict[tuple[str, Phase, Side], list[float]] = {}
    for request, positive in zip(requests, is_positive, strict=True):
        side: Side = "positives" if positive else "negatives"
        for code in np.unique(request.phases):
            rows = request.scores[request.phases == code]
            for name, peak in zip(request.columns, np.fmax.reduce(rows).tolist(), strict=True):
                if peak == peak:
                    found.setdefault((name, Phase(code), side), []).append(peak)
    peaks: Peaks = {}
    for name, phase, side in sorted(found):
        values = np.array(found[name, phase, side], np.float32)
        (statistics,) = FeatureStatistics.of(values[:, None], len(values))
        peaks.setdefault(name, {}).setdefault(phase, {})[side] = statistics
    return peaks


def share_below(peaks: FeatureStatistics, value: float) -> float:
    """Share of the requests whose peak is lower; as low as 2 % of the value count as equal."""
    above = peaks.share_from(int(bin_numbers(np.array(value))))
    return 0.0 if above is None else 1 - above


def only_columns(request: RecordedRequest, names: Sequence[str]) -> RecordedRequest:
    """The request with the scores of these features and no others."""
    columns = [request.columns.index(name) for name in names]
    return replace(request, columns=tuple(names), scores=request.scores[:, columns])


def peaks_as_json(peaks: Peaks) -> dict[str, Any]:
    """As plain values, under `peaks` in a calibration record."""
    return {
        name: {
            str(phase): {side: each.as_json() for side, each in sides.items()}
            for phase, sides in phases.items()
        }
        for name, phases in peaks.items()
    }


def peaks_from_json(values: Mapping[str, Any]) -> Peaks:
    """
    Raises:
        ValueError: these are not what `peaks_as_json` gives.
    """
    try:
        return {
            name: {
                Phase.parse(phase): {
                    side: FeatureStatistics.from_json(sides[side])
                    for side in SIDES
                    if side in sides
                }
                for phase, sides in phases.items()
            }
            for name, phases in values.items()
        }
    except (TypeError, AttributeError) as error:
        raise ValueError(f"not peaks of features: {error!r}") from error
