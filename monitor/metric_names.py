"""The metrics that the monitor's totals make, whatever way they leave it.

A total is named `metric/value/value...`, such as `tokens/unseen/dropped_frame`; the values are
those of the metric's labels, in order. `docs/telemetry.md` says what each one means.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

Totals = Callable[[], Mapping[str, int]]
Labels = tuple[str, ...]

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
    "delivery/attempts": ("outcome", "destination"),
    "store/evicted": ("kind",),
}
GAUGES: dict[str, Labels] = {
    "requests/live": (),
    "ruleset/info": ("sha256", "version"),
    "taps/alive": (),
    "delivery/pending": ("destination",),
    "delivery/oldest_age_s": ("destination",),
    "store/used_bytes": (),
}


def series(
    totals: Mapping[str, int], metric: str, labels: Labels
) -> Iterator[tuple[dict[str, str], int]]:
    """The values of a metric with the labels of each. The last label may hold slashes."""
    for name, value in totals.items():
        if name == metric or name.startswith(f"{metric}/"):
            values = name[len(metric) + 1 :].split("/", max(0, len(labels) - 1))
            yield dict(zip(labels, values, strict=False)), value
