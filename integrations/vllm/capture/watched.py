"""What a capture watches: the features of some rules, hook points as a whole, or both.

A hook point as a whole is watched by the rows of an identity matrix: the score of row i is
coordinate i of what is read there, to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from saeguard.integrations.discovery.activations import column_names
from saeguard.integrations.vllm.capture.silent import write_silent_rule
from saeguard.monitor.compile import compile_watchlist
from saeguard.monitor.config import read_rules
from saeguard.monitor.errors import ConfigError
from saeguard.monitor.sites import HookPoint
from saeguard.monitor.watchlist import Site, WatchedFeature, Watchlist, build, encode

_NUM_GOLDEN = 4


@dataclass(frozen=True, slots=True)
class Watched:
    """What the engines of a capture are configured with. Without the matrices of hook points, it is
    small enough to be sent to them.
    """

    of_rules: Watchlist
    """Of the rules alone; empty, its digest as well, where there are none."""
    hook_points: tuple[HookPoint, ...]
    """Of which all is captured."""
    d_model: int | None
    """None where nothing is watched that is as wide."""

    @property
    def columns(self) -> tuple[str, ...]:
        """What is kept of it."""
        assert self.d_model or not self.hook_points
        coordinates = (column_names(place, self.d_model or 0) for place in self.hook_points)
        return (*self.of_rules.features, *chain.from_iterable(coordinates))

    def compile(self, directory: Path) -> Watchlist:
        """All that is watched; the silent rule, which is a part of it, is written to the directory.

        It has no heads: the monitor is to record their rows, of which the scores are made later,
        where the phases of a given response are known.
        """
        sites = {site.hook_point: site for site in self.of_rules.sites}
        for place in self.hook_points:
            _add(sites, _identity(place, self.d_model or 0))
        first = next(iter(sites.values()))
        _add(sites, write_silent_rule(directory, first.hook_point, first.weight.shape[1]))
        return build(self.d_model, list(sites.values()))


def watched(rules: Sequence[str], hook_points: Sequence[str], model: str) -> Watched:
    """
    Args:
        rules: files, directories and packs.
        hook_points: by TransformerLens' names; where there are no rules, at least one.
        model: a directory or a name on a hub.

    Raises:
        SaeguardError: the rules, a hook point or the model cannot be used.
    """
    places = _wide(hook_points)
    of_rules = compile_watchlist(read_rules(rules)) if rules else Watchlist(None, (), digest="")
    if not places:
        return Watched(of_rules, (), of_rules.d_model)
    d_model = _hidden_size(model)
    if of_rules.d_model not in (None, d_model):
        raise ConfigError(
            f"the rules are for d_model {of_rules.d_model}, but {model} has {d_model}",
            "use SAEs or probes of this model",
        )
    return Watched(of_rules, places, d_model)


def _wide(names: Sequence[str]) -> tuple[HookPoint, ...]:
    """Each once."""
    places = tuple(HookPoint.parse(name) for name in dict.fromkeys(names))
    for place in places:
        if not place.is_d_model_wide:
            raise ConfigError(
                f"--activations {place}: only what is as wide as the residual stream is captured",
                f"such as blocks.{place.layer}.hook_resid_post",
            )
    return places


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


def _add(sites: dict[HookPoint, Site], more: Site) -> None:
    """Beside what is watched at its hook point already, whose golden inputs stay."""
    known = sites.get(more.hook_point)
    sites[more.hook_point] = more if known is None else _side_by_side(known, more)


def _side_by_side(known: Site, more: Site) -> Site:
    arrays = {
        name: np.concatenate([getattr(known, name), getattr(more, name)])
        for name in ("weight", "bias", "threshold")
    }
    scores = encode(known.golden_inputs, more).astype(np.float32)
    return Site(
        hook_point=known.hook_point,
        features=known.features + more.features,
        golden_inputs=known.golden_inputs,
        golden_scores=np.concatenate([known.golden_scores, scores], axis=1),
        **arrays,
    )


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
