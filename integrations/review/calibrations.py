"""What calibrations have left beside the rules: how features' scores are distributed."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from saeguard.rules.calibration.peaks import SIDES, Peaks, Side, peaks_from_json, share_below
from saeguard.rules.calibration.statistics import Statistics, from_json
from saeguard.rules.loading.sources import is_pack
from saeguard.rules.phases import Phase

_SUFFIX = ".calibration.json"


@dataclass(frozen=True, slots=True)
class Calibration:
    """One record."""

    path: Path
    watchlists: frozenset[str]
    """Digests of those whose scores it is about; none where that is not known."""
    statistics: Statistics
    peaks: Peaks


@dataclass(frozen=True, slots=True)
class Percentile:
    """Where a value lies among the largest ones of the calibration's requests."""

    side: Side
    share_below: float
    num_requests: int


@dataclass(frozen=True, slots=True)
class Calibrated:
    """A feature in a phase, in the calibration."""

    density: float
    """Share of the tokens on which it is active."""
    num_tokens: int
    percentiles: list[Percentile]
    is_certain: bool
    """Whether it is known that the calibration's scores are of the same rows."""


def read_calibrations(items: Iterable[str | Path]) -> list[Calibration]:
    """The records beside rule files, or in directories of them; those that cannot be read, and
    older ones without distributions, are left out."""
    paths: dict[Path, None] = {}
    for item in items:
        if is_pack(item):
            continue
        path = Path(item)
        found = path.rglob(f"*{_SUFFIX}") if path.is_dir() else [path.with_suffix(_SUFFIX)]
        paths |= dict.fromkeys(sorted(found))
    return [record for path in paths if (record := _read(path))]


def _read(path: Path) -> Calibration | None:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return Calibration(
            path=path,
            watchlists=frozenset(values.get("watchlists", ())),
            statistics=from_json(values["statistics"]),
            peaks=peaks_from_json(values["peaks"]),
        )
    except (OSError, ValueError, TypeError, LookupError, AttributeError):
        return None


def calibrated(
    records: Iterable[Calibration], feature: str, phase: str, watchlist: str, value: float | None
) -> Calibrated | str:
    """What is known of the feature, or why nothing is.

    Args:
        watchlist: digest of the one whose rows made the value.
        value: the feature's largest one in the phase.
    """
    at = Phase.parse(phase)
    known = [r for r in records if at in r.statistics.get(feature, {})]
    fitting = [r for r in known if watchlist in r.watchlists or not r.watchlists]
    if not fitting:
        return "calibrated with another watchlist only" if known else "not calibrated"
    record = max(fitting, key=lambda r: watchlist in r.watchlists)
    statistics, peaks = record.statistics[feature][at], record.peaks.get(feature, {}).get(at, {})
    return Calibrated(
        density=statistics.density or 0.0,
        num_tokens=statistics.num_tokens,
        percentiles=[
            Percentile(side, share_below(peaks[side], value), peaks[side].num_groups)
            for side in SIDES
            if side in peaks and value is not None
        ],
        is_certain=watchlist in record.watchlists,
    )
