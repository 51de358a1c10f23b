"""Scores of lately with those of calibration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from saeguard.integrations.discovery.activations import hook_points_of
from saeguard.integrations.drift.fit import Fit, compare_fit
from saeguard.integrations.drift.sources import read_known, read_side, sample, with_scores
from saeguard.monitor.compile import compile_watchlist
from saeguard.monitor.errors import ConfigError
from saeguard.rules import RuleSet
from saeguard.rules.calibration.statistics import Statistics
from saeguard.rules.drift.compare import compare
from saeguard.rules.drift.concerned import thresholds_of
from saeguard.rules.drift.results import Compared, Criteria
from saeguard.rules.drift.samples import Sample
from saeguard.rules.recordings.offline import RecordedRequest


@dataclass(frozen=True, slots=True)
class LiveDrift:
    """What was found."""

    compared: Compared
    fit: Fit | None
    """None where no SAE was given."""
    knows_topics: bool
    """Whether labels told what each request is of."""

    @property
    def has_moved(self) -> bool:
        moved = any(drift.verdict == "moved" for drift in self.compared.drifts)
        return moved or (self.fit is not None and self.fit.has_moved)

    @property
    def is_unsure(self) -> bool:
        drifts = self.compared.drifts
        return not drifts or any(drift.verdict == "too_little" for drift in drifts)


@dataclass(frozen=True, slots=True)
class Sides:
    """Where the scores are, and what is known of the requests."""

    reference: Path
    recent: Path
    data: Path | None = None
    record_share: float | None = None
    since_ns: int = 0


def compare_live(
    ruleset: RuleSet, sides: Sides, criteria: Criteria, sae: Path | None = None
) -> LiveDrift:
    """
    Raises:
        SaeguardError: a side cannot be read, has no scores of a feature, or nothing can be compared
            with it.
    """
    reference = read_side(sides.reference, sides.record_share)
    recent = read_side(sides.recent, sides.record_share, sides.since_ns)
    if isinstance(recent, dict):
        raise ConfigError(
            f"{sides.recent}: of what is recent, requests are needed: chance is tried on them",
            "give a recording or an alert store; a calibration record can be the reference",
        )
    known = read_known(sides.data)
    new = sample(_scored(sides.recent, recent, ruleset), known)
    old: Sample | Statistics
    if isinstance(reference, dict):
        old = reference
        _check_features(sides.reference, ruleset, set(reference))
    else:
        old = sample(_scored(sides.reference, reference, ruleset), known)
        if not set(old.strata) & set(new.strata):
            raise ConfigError(
                f"{sides.data}: no two requests of {sides.reference} and {sides.recent} are of the "
                "same source and label, so that nothing can be compared within one",
                "leave --data out to compare all with all",
            )
    knows_topics = sides.data is not None and isinstance(old, Sample)
    thresholds = {
        name: [threshold.score for threshold in found]
        for name, found in thresholds_of(ruleset).items()
    }
    fit = None
    if sae is not None:
        if isinstance(old, dict):
            raise ConfigError(f"{sides.reference}: has no activations, which --sae is compared on")
        fit = compare_fit(sae, old, new)
    return LiveDrift(compare(old, new, thresholds, criteria), fit, knows_topics)


def _scored(
    path: Path, requests: Sequence[RecordedRequest], ruleset: RuleSet
) -> Sequence[RecordedRequest]:
    """With scores of what the rules read, if need be from activations."""
    needed = set(ruleset.used_features())
    if any(hook_points_of(r) and not needed <= set(r.columns) for r in requests):
        requests = with_scores(requests, compile_watchlist(ruleset))
    _check_features(path, ruleset, {name for request in requests for name in request.columns})
    return requests


def _check_features(path: Path, ruleset: RuleSet, recorded: set[str]) -> None:
    if missing := [name for name in ruleset.used_features() if name not in recorded]:
        raise ConfigError(
            f"{path}: the rules read {', '.join(missing)}, of which it has no scores",
            "record it with a watchlist of these rules",
        )
