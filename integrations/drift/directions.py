"""The directions that rules watch: their encoders' rows, as unit vectors, by hook point."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np

from saeguard.integrations.drift.weights import Directions, Doubles
from saeguard.integrations.saelens.layouts import open_encoder
from saeguard.monitor.sites import HookPoint
from saeguard.monitor.watchlist import Watchlist
from saeguard.rules import RuleSet, SaeFeature

NUM_OTHERS = 256
"""Features of each SAE that nobody watches."""


def watched_directions(
    ruleset: RuleSet, watchlist: Watchlist, seed: int = 0
) -> tuple[list[Directions], list[str]]:
    """
    Returns:
        Those of each hook point; and names of features that are no direction there: experts of
        routers, and rows of zeros.
    """
    others = _others(ruleset, watchlist, seed)
    found, left_out = [], []
    for site in watchlist.sites:
        norms = np.linalg.norm(site.weight.astype(np.float64), axis=1)
        is_direction = (norms > 0) & (site.hook_point.kind != "router")
        names = [feature.name for feature in site.features]
        left_out += [
            name
            for name, is_one in zip(names, is_direction, strict=True)
            if not is_one and name not in watchlist.heads  # whose rows stand beside it
        ]
        if is_direction.any():
            found.append(
                Directions(
                    hook_point=site.hook_point,
                    names=tuple(np.array(names)[is_direction].tolist()),
                    watched=site.weight[is_direction] / norms[is_direction, None],
                    others=others.get(site.hook_point, np.zeros((0, site.weight.shape[1]))),
                )
            )
    return found, left_out


def _others(ruleset: RuleSet, watchlist: Watchlist, seed: int) -> dict[HookPoint, Doubles]:
    """Rows of features that are not watched, some of each SAE."""
    watched: dict[tuple[HookPoint, Path, int | None], list[int]] = defaultdict(list)
    for site in watchlist.sites:
        for feature in site.features:
            known = ruleset.features.get(feature.name)  # a row of a probe's head is none
            if known is not None and isinstance(known.source, SaeFeature):
                place = (site.hook_point, known.source.path, known.source.layer)
                watched[place].append(known.source.index)
    rng = np.random.default_rng(seed)
    found: dict[HookPoint, list[Doubles]] = defaultdict(list)
    for (hook_point, path, layer), indices in watched.items():
        encoder = open_encoder(path, layer)
        free = np.setdiff1d(np.arange(encoder.weights.shape[0]), indices)
        picked = np.sort(rng.choice(free, min(NUM_OTHERS, len(free)), replace=False))
        rows = encoder.weights.rows(picked.tolist())
        norms = np.linalg.norm(rows, axis=1)
        found[hook_point].append(rows[norms > 0] / norms[norms > 0, None])
    return {hook_point: np.concatenate(parts) for hook_point, parts in found.items()}
