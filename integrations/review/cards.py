"""What is known of the features that an alert's rule reads, and what they did in its request."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from saeguard.integrations.review.calibrations import Calibrated, Calibration, calibrated
from saeguard.integrations.review.views import read_features
from saeguard.monitor.alerts import PHASES, Alert, RequestRecord
from saeguard.monitor.recorded_peaks import Standing, recorded_peaks
from saeguard.monitor.recordings import phase_codes
from saeguard.monitor.strip import visible
from saeguard.monitor.watchlist import Floats, Site, WatchedFeature, Watchlist

NUM_TOP = 5


@dataclass(frozen=True, slots=True)
class TopToken:
    position: int
    phase: str
    text: str | None
    """None where no text is kept."""
    value: float


@dataclass(frozen=True, slots=True)
class Card:
    name: str
    label: str
    signals: list[str]
    """Names of those that read it."""
    facts: list[tuple[str, str]]
    """Where its row and its label come from: what, and how."""
    standing: Standing | None
    """None where it was never observed in the phase of the alert."""
    calibrated: Calibrated | str
    """What calibration knows of it; or why it knows nothing."""
    share_active: float
    """Of the recorded tokens on which it was observed."""
    top: list[TopToken]
    """The recorded tokens with the largest scores, the largest first."""
    link: str | None
    """Its page on Neuronpedia."""


def cards_of(
    path: Path,
    alert: Alert,
    record: RequestRecord,
    watchlist: Watchlist | None,
    calibrations: Sequence[Calibration] = (),
) -> list[Card]:
    """One for each feature that the alert's signals read.

    Args:
        path: of the alert store.
        watchlist: that whose rows made the scores.
        calibrations: of the rules.

    Raises:
        StoreError: the store cannot be read.
    """
    sites = watchlist.sites if watchlist else ()
    watched = {feature.name: (site, feature) for site in sites for feature in site.features}
    standings = recorded_peaks(path, record, PHASES.index(alert.phase))
    cards = []
    for name in read_features(alert, record):
        peak = standings[name].peak if name in standings else None
        known = calibrated(calibrations, name, alert.phase, alert.watchlist, peak)
        cards.append(_card(alert, record, name, standings, watched.get(name), known))
    return cards


def _card(
    alert: Alert,
    record: RequestRecord,
    name: str,
    standings: Mapping[str, Standing],
    watched: tuple[Site, WatchedFeature] | None,
    known: Calibrated | str,
) -> Card:
    scores = record.score_array()[:, record.features.index(name)]
    seen = scores[np.isfinite(scores)]
    return Card(
        name=name,
        label=alert.feature_labels.get(name, ""),
        signals=[s.name for s in alert.signals if name in re.findall(r"\w+", s.feature)],
        facts=_facts(*watched) if watched else [],
        standing=standings.get(name),
        calibrated=known,
        share_active=float((seen > 0).mean()) if len(seen) else 0.0,
        top=_top(record, scores),
        link=alert.feature_links.get(name),
    )


def _top(record: RequestRecord, scores: Floats) -> list[TopToken]:
    order = np.argsort(-np.where(np.isfinite(scores), scores, -np.inf), kind="stable")[:NUM_TOP]
    phases, texts = phase_codes(record), record.texts
    return [
        TopToken(
            position=record.first_recorded + row,
            phase=PHASES[phases[row]],
            text=None if texts is None else visible(texts[row]),
            value=float(scores[row]),
        )
        for row in map(int, order)
        if scores[row] > 0
    ]


def _facts(site: Site, feature: WatchedFeature) -> list[tuple[str, str]]:
    """What the watchlist says."""
    kind = "SAE" if feature.kind == "sae" else feature.kind
    row = "expert" if feature.kind == "router" else "row"
    origin = (feature.label_source or "the rules", feature.label_method, feature.label_date)
    found = [
        ("source", f"{kind} {feature.source}, {row} {feature.index}"),
        ("read at", str(site.hook_point)),
        ("units", feature.units),
        ("inexact", "" if feature.exact else feature.inexact_reason or "an approximation"),
        ("label from", ", ".join(filter(None, origin)) if feature.label else ""),
    ]
    return [(what, how) for what, how in found if how]
