"""What a capture watches: the features of some rules, hook points as a whole, or both.

A hook point as a whole is watched by the rows of an identity matrix: the score of row i is
coordinate i of what is read there, to the last bit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors.numpy import save_file

from saeguard.integrations.discovery.activations import column_names
from saeguard.monitor.compile import compile_watchlist
from saeguard.monitor.config import read_rules
from saeguard.monitor.errors import ConfigError
from saeguard.monitor.heads import Head, row_names
from saeguard.monitor.sites import HookPoint
from saeguard.monitor.watchlist import Site, WatchedFeature, Watchlist, build
from saeguard.rules.loading.sources import is_pack

_SILENT = "silent"
"""The monitor has to have a rule, and a rule a feature: without --rules one that is always 0."""
_SILENT_FILE = "silent.yaml"
_NUM_GOLDEN = 4


@dataclass(frozen=True, slots=True)
class Watched:
    """What the engine of a capture is configured with."""

    rules: list[str]
    watchlist: Watchlist
    digest: str
    """Of the watchlist that the rules alone would have; empty without rules."""
    heads: Mapping[str, Head]
    """Not in the watchlist: the monitor is to record their rows, of which the scores are made here,
    where the phases of a given response are known.
    """

    @property
    def columns(self) -> tuple[str, ...]:
        """What is kept of it."""
        left_out = {_SILENT, *row_names(self.heads)}
        return tuple(name for name in self.watchlist.columns if name not in left_out)


def watched(
    rules: Sequence[str], hook_points: Sequence[str], model: str, directory: Path
) -> Watched:
    """
    Args:
        rules: files, directories and packs.
        hook_points: by TransformerLens' names.
        model: a directory or a name on a hub.
        directory: for a rule file, where `rules` is empty.

    Raises:
        SaeguardError: the rules, a hook point or the model cannot be used.
    """
    files = [item if is_pack(item) else str(Path(item).absolute()) for item in rules]
    if not hook_points:
        watchlist = compile_watchlist(read_rules(files))
        rows = build(watchlist.d_model, watchlist.sites)
        return Watched(files, rows, watchlist.digest, watchlist.heads)
    places = [HookPoint.parse(name) for name in dict.fromkeys(hook_points)]
    for place in places:
        if not place.is_d_model_wide:
            raise ConfigError(
                f"--activations {place}: only what is as wide as the residual stream is captured",
                f"such as blocks.{place.layer}.hook_resid_post",
            )
    d_model = _hidden_size(model)
    watchlist = compile_watchlist(
        read_rules(files or [_silent_rule(directory, places[0], d_model)])
    )
    sites = {site.hook_point: site for site in watchlist.sites}
    for place in places:
        identity = _identity(place, d_model)
        sites[place] = _side_by_side(sites[place], identity) if place in sites else identity
    return Watched(
        files or [str(directory / _SILENT_FILE)],
        build(d_model, list(sites.values())),
        watchlist.digest if files else "",
        watchlist.heads,
    )


def _identity(hook_point: HookPoint, d_model: int) -> Site:
    rng = np.random.default_rng(hook_point.layer)
    golden = rng.integers(-64, 64, (_NUM_GOLDEN, d_model)).astype(np.float32)  # exact in 16 bits
    return Site(
        hook_point=hook_point,
        features=tuple(
            WatchedFeature(name, "activation", str(hook_point), "", i)
            for i, name in enumerate(column_names(hook_point, d_model))
        ),
        weight=np.eye(d_model, dtype=np.float32),
        bias=np.zeros(d_model, np.float32),
        threshold=np.full(d_model, -np.inf, np.float32),
        golden_inputs=golden,
        golden_scores=golden,
    )


def _side_by_side(rules: Site, identity: Site) -> Site:
    """The features of both, at the one hook point that they have; golden inputs of the rules'."""
    if rules.weight.shape[1] != identity.weight.shape[1]:
        raise ConfigError(
            f"the rules read {rules.weight.shape[1]} numbers at {rules.hook_point}, and the model "
            f"has {identity.weight.shape[1]} there",
            "use SAEs or probes of this model",
        )
    arrays = {
        name: np.concatenate([getattr(rules, name), getattr(identity, name)])
        for name in ("weight", "bias", "threshold")
    }
    return Site(
        hook_point=rules.hook_point,
        features=rules.features + identity.features,
        golden_inputs=rules.golden_inputs,
        golden_scores=np.concatenate([rules.golden_scores, rules.golden_inputs], axis=1),
        **arrays,
    )


def _silent_rule(directory: Path, hook_point: HookPoint, d_model: int) -> str:
    """A rule that never matches, of a probe that reads nothing."""
    header = {"hook_point": str(hook_point), "names": [_SILENT]}
    save_file(
        {"weight": np.zeros((1, d_model), np.float32), "bias": np.zeros(1, np.float32)},
        directory / "silent.safetensors",
        metadata={"saeguard_probe": json.dumps(header)},
    )
    rule: dict[str, Any] = {
        "id": "8f6f2f0a-8a64-4d0e-9a4b-3c1f6f1f9c55",
        "name": _SILENT,
        "title": "Never",
        "status": "test",
        "severity": "info",
        "signals": {"never": {"feature": _SILENT, "agg": "value", "gt": 1.0}},
        "condition": "never",
        "message": "never",
        "tags": ["site.capture"],
        "falsepositives": [],
    }
    source = {"path": "silent.safetensors"}
    document = {
        "version": 1,
        "ruleset": {"name": "capture", "version": "1.0.0"},
        "features": {_SILENT: {"probe": source, "name": _SILENT}},
        "rules": [rule],
    }
    path = directory / _SILENT_FILE
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return str(path)


def _hidden_size(model: str) -> int:
    """d_model, from the model's config.json."""
    from transformers import PretrainedConfig

    try:
        config: dict[str, Any] = PretrainedConfig.get_config_dict(model)[0]
    except Exception as error:  # whatever a hub, a disk or a parser may say
        raise ConfigError(f"{model}: its config.json cannot be read: {error}") from error
    found = (config.get("text_config") or config).get("hidden_size")
    if not isinstance(found, int):
        raise ConfigError(f"{model}: its config.json does not say its hidden_size")
    return found
