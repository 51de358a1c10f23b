"""The metrics that the monitor's totals and distributions make, whatever way they leave it.

Each is named `metric/value/value...`, such as `tokens/unseen/dropped_frame`; the values are
those of the metric's labels, in order. `docs/telemetry.md` says what each one means.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

from saeguard.monitor.histograms import Distribution

Totals = Callable[[], Mapping[str, int]]
Distributions = Callable[[], Mapping[str, Distribution]]
Labels = tuple[str, ...]
T = TypeVar("T", int, Distribution)

COUNTERS: dict[str, Labels] = {
    "tokens": ("coverage", "reason"),
    "alerts": ("rule", "severity"),
    "limited": ("rule", "severity"),
    "suppressed": ("rule", "severity", "exception"),
    "opted_out": ("rule", "severity"),
    "opt_outs": ("outcome",),
    "building_blocks": ("rule", "severity"),
    "uncovered": ("rule", "severity"),
    "stops": ("rule", "severity", "outcome"),
    "correlations/evicted": (),
    "rules/reload": ("outcome",),
    "frames/dropped": (),
    "messages/dropped": (),
    "messages/unreadable": (),
    "messages/failed": (),
    "rows/nonfinite": (),
    "rows/orphaned": (),
    "rows/phase_unsure": (),
    "rows/unevaluated": (),
    "requests/finished": (),
    "requests/unattended": (),
    "requests/end_lost": (),
    "delivery/attempts": ("outcome", "destination"),
    "store/evicted": ("kind",),
    "store/refused": ("kind",),
}
GAUGES: dict[str, Labels] = {
    "requests/live": (),
    "ruleset/info": ("sha256", "version"),
    "taps/alive": (),
    "delivery/pending": ("destination",),
    "delivery/oldest_age_s": ("destination",),
    "store/used_bytes": (),
    "store/stalled_s": (),
    "queue/depth": ("queue",),
}
HISTOGRAMS: dict[str, Labels] = {
    "evaluation/duration_s": (),
    "alert/latency_s": (),
    "delivery/latency_s": ("destination",),
    "feature/score": ("feature",),
}


def series(
    totals: Mapping[str, T], metric: str, labels: Labels
) -> Iterator[tuple[dict[str, str], T]]:
    """The values of a metric with the labels of each. The last label may hold slashes."""
    for name, value in totals.items():
        if name == metric or name.startswith(f"{metric}/"):
            values = name[len(metric) + 1 :].split("/", max(0, len(labels) - 1))
            yield dict(zip(labels, values, strict=False)), value
