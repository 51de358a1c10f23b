"""Two models: their weights, and what they make of the same requests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from saeguard.integrations.drift.checkpoints import is_adapter, open_adapter, open_checkpoint
from saeguard.integrations.drift.directions import watched_directions
from saeguard.integrations.drift.paired import PairedChange, compare_pairs
from saeguard.integrations.drift.sources import read_known, read_side
from saeguard.integrations.drift.weights import WeightChange, compare_weights
from saeguard.monitor.compile import compile_watchlist
from saeguard.monitor.errors import ConfigError
from saeguard.rules import RuleSet
from saeguard.rules.recordings.offline import RecordedRequest


@dataclass(frozen=True, slots=True)
class ModelDrift:
    """What was found."""

    weights: WeightChange | None
    paired: PairedChange | None
    left_out: tuple[str, ...]
    """Features that are no directions."""

    @property
    def moved(self) -> tuple[str, ...]:
        """Names of the features that have moved, by either, each once."""
        sites = self.weights.sites if self.weights else ()
        by_weights = [c.feature for site in sites for c in site.concepts if c.has_moved]
        changes = self.paired.changes if self.paired else ()
        return tuple(dict.fromkeys([*by_weights, *(c.feature for c in changes if c.has_moved)]))

    @property
    def has_moved(self) -> bool:
        return bool(self.moved)


def compare_models(
    ruleset: RuleSet,
    models: tuple[Path, Path] | None,
    activations: tuple[Path, Path] | None,
    data: Path | None = None,
) -> ModelDrift:
    """
    Raises:
        SaeguardError: something cannot be read, or does not belong together.
    """
    watchlist = compile_watchlist(ruleset)
    weights, paired, left_out = None, None, list[str]()
    if models is not None:
        directions, left_out = watched_directions(ruleset, watchlist)
        before, after = models
        weights = compare_weights(
            open_checkpoint(before),
            open_adapter(after) if is_adapter(after) else open_checkpoint(after),
            directions,
        )
    if activations is not None:
        old, new = (_requests(path) for path in activations)
        paired = compare_pairs(old, new, watchlist, read_known(data))
    return ModelDrift(weights, paired, tuple(left_out))


def _requests(path: Path) -> list[RecordedRequest]:
    side = read_side(path, record_share=1.0)
    if isinstance(side, dict):
        raise ConfigError(f"{path}: has no requests, which both models are compared on")
    return side
