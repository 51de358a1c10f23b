"""What the engine is watched with for the time of the proof: the user's rules and watchlist, and a
little beside them.

Columns of random directions are put to each site but routers. The features of a sparse autoencoder
are 0 on most tokens, so rows that were mixed up could look right; these tell every row from every
other. A rule that fires on the first row of each of our requests makes the monitor keep their
scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import yaml

from saeguard.monitor import watchlist as wl
from saeguard.monitor.alerts import PHASES
from saeguard.monitor.errors import UnsupportedError
from saeguard.monitor.sites import HookPoint

TENANT = "saeguard-verify"
"""Whose requests our rule sees, and no other rule of anybody's."""
RULE = "saeguard_verify"
LONGEST = 16_384
"""No request of ours has more tokens."""

_NUM_DIRECTIONS = 8
_SOURCE = "saeguard-verify"


@dataclass(frozen=True, slots=True)
class Setting:
    """The files of a run."""

    config: Path
    store: Path
    watchlist_file: Path
    watchlist: wl.Watchlist
    signature: tuple[int, ...]
    """Which of its columns are ours."""


def write_setting(directory: Path, watchlist: wl.Watchlist, rules: Sequence[Path | str]) -> Setting:
    """Write a configuration into the directory, which is empty.

    Args:
        watchlist: the user's.
        rules: the user's, for which it was made.

    Raises:
        UnsupportedError: only routers are watched.
    """
    extendable = [site for site in watchlist.sites if site.hook_point.kind != "router"]
    if not extendable:
        raise UnsupportedError(
            "the rules watch routers only, whose scores cannot tell every row from every other",
            "verify rules that read a feature of the residual stream as well",
        )
    routers = [site for site in watchlist.sites if site.hook_point.kind == "router"]
    sites = [*map(_with_directions, extendable), *routers]
    extended = wl.build(watchlist.d_model, sites)
    watchlist_file = directory / "watch.safetensors"
    wl.save(extended, watchlist_file)
    rule_file = directory / "verify.yaml"
    rule_file.write_text(yaml.safe_dump(_rules(extendable[0].hook_point), sort_keys=False))
    config = directory / "saeguard.yaml"
    values = {
        "version": 1,
        "rules": [*map(str, rules), str(rule_file)],
        "watchlist": str(watchlist_file),
        "store": "alerts.sqlite",
        "reload": False,
        "capture_text": "window",  # with the text, the monitor keeps the tokens' ids
        "record_tokens": LONGEST,
    }
    config.write_text(yaml.safe_dump(values, sort_keys=False))
    ours = tuple(i for i, name in enumerate(extended.columns) if name.startswith(RULE))
    return Setting(config, directory / "alerts.sqlite", watchlist_file, extended, ours)


def _with_directions(site: wl.Site) -> wl.Site:
    rng = np.random.default_rng(site.hook_point.layer)
    num_inputs = site.weight.shape[1]
    ours = tuple(
        wl.WatchedFeature(_column(site.hook_point, i), "probe", _SOURCE, "", i)
        for i in range(_NUM_DIRECTIONS)
    )
    directions = rng.standard_normal((_NUM_DIRECTIONS, num_inputs)) / np.sqrt(num_inputs)
    extended = replace(
        site,
        features=(*site.features, *ours),
        weight=np.concatenate([site.weight, directions]).astype(np.float32),
        bias=np.concatenate([site.bias, np.zeros(_NUM_DIRECTIONS)]).astype(np.float32),
        threshold=np.concatenate(
            [site.threshold, np.full(_NUM_DIRECTIONS, -np.inf)]
        ).astype(np.float32),
    )  # fmt: skip
    golden_scores = wl.encode(extended.golden_inputs, extended).astype(np.float32)
    return replace(extended, golden_scores=golden_scores)


def _column(hook_point: HookPoint, number: int) -> str:
    return f"{RULE}_{hook_point.kind}_{hook_point.layer}_{number}"


def _rules(hook_point: HookPoint) -> dict[str, object]:
    feature = _column(hook_point, 0)
    rule = {
        "id": "5ae60a8d-0000-4000-8000-000000000000",
        "name": RULE,
        "title": "A request of saeguard verify",
        "status": "test",
        "severity": "info",
        "scope": {"tenant": [TENANT], "phase": list(PHASES)},
        "signals": {"seen": {"feature": feature, "agg": "value", "gt": -1e30}},
        "condition": "seen",
        "limit": {"per": "request", "max": 1},
        "message": "{rule.title}",
        "tags": ["site.verify"],
        "falsepositives": [],
    }
    return {
        "version": 1,
        "ruleset": {"name": "verify", "version": "1"},
        "features": {feature: {"probe": {"path": _SOURCE}, "name": feature}},
        "rules": [rule],
    }
