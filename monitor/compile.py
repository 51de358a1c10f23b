"""Turn the features that the rules name into a watchlist. Offline; a serving process never does
this.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import numpy.typing as npt

from saeguard.monitor import watchlist as wl
from saeguard.monitor.errors import CompileError, SaeguardError
from saeguard.rules import Feature, RuleSet, SaeFeature

_NUM_GOLDEN = 16


@dataclass(frozen=True, slots=True)
class FeatureRow:
    """One feature as a row of its site: `p = x @ weight + bias`, gated by `threshold`; in
    float64.
    """

    layer: int
    weight: npt.NDArray[np.float64]  # [d_model]
    bias: float
    threshold: float
    source_sha256: str
    index: int


Reader = Callable[[Sequence[Feature]], list[FeatureRow]]


def compile_watchlist(ruleset: RuleSet) -> wl.Watchlist:
    """The watchlist of every feature that some rule uses.

    Raises:
        CompileError: a source cannot be read, or sources disagree about `d_model`; all faults at
        once.
    """
    rows: list[tuple[Feature, FeatureRow]] = []
    faults: list[str] = []
    for (kind, _), features in _by_source(ruleset).items():
        try:
            rows += zip(features, _reader(kind)(features), strict=True)
        except SaeguardError as error:
            faults.append(f"{features[0].location}: {error}")
    if faults:
        raise CompileError("\n".join(faults))
    if not rows:
        raise CompileError("the rules use no features, so there is nothing to watch")
    widths = {len(row.weight) for _, row in rows}
    if len(widths) > 1:
        raise CompileError(f"the sources disagree about d_model: {sorted(widths)}")
    d_model = widths.pop()
    layers = sorted({row.layer for _, row in rows})
    sites = [
        _site(layer, [(f, r) for f, r in rows if r.layer == layer], d_model) for layer in layers
    ]
    return wl.build(d_model, sites)


def _by_source(ruleset: RuleSet) -> Mapping[tuple[str, Path], list[Feature]]:
    groups: dict[tuple[str, Path], list[Feature]] = {}
    for name in ruleset.used_features():
        feature = ruleset.features[name]
        kind = "sae" if isinstance(feature.source, SaeFeature) else "probe"
        groups.setdefault((kind, feature.source.path), []).append(feature)
    return groups


def _reader(kind: str) -> Reader:
    for entry in entry_points(group="saeguard.sources", name=kind):
        reader: Reader = entry.load()
        return reader
    raise CompileError(f"no reader for features of kind {kind!r} is installed")


def _site(layer: int, rows: Sequence[tuple[Feature, FeatureRow]], d_model: int) -> wl.Site:
    site = wl.Site(
        layer=layer,
        features=tuple(_watched(feature, row) for feature, row in rows),
        weight=np.stack([row.weight for _, row in rows]).astype(np.float32),
        bias=np.array([row.bias for _, row in rows], dtype=np.float32),
        threshold=np.array([row.threshold for _, row in rows], dtype=np.float32),
        golden_inputs=_golden_inputs(rows, d_model, seed=layer),
        golden_scores=np.empty((0, len(rows)), dtype=np.float32),
    )
    scores = wl.encode(site.golden_inputs, site).astype(np.float32)
    return wl.Site(
        site.layer,
        site.features,
        site.weight,
        site.bias,
        site.threshold,
        site.golden_inputs,
        scores,
    )


def _watched(feature: Feature, row: FeatureRow) -> wl.WatchedFeature:
    return wl.WatchedFeature(
        name=feature.name,
        kind="sae" if isinstance(feature.source, SaeFeature) else "probe",
        # The file's name, not its path: a watchlist must not depend on where it was compiled.
        source=feature.source.path.name,
        source_sha256=row.source_sha256,
        index=row.index,
        label=feature.label,
        units=feature.units,
    )


def _golden_inputs(
    rows: Sequence[tuple[Feature, FeatureRow]], d_model: int, seed: int
) -> npt.NDArray[np.float32]:
    """Inputs on which gates are open as well as closed: noise, pushed along some row's
    direction.
    """
    rng = np.random.default_rng(seed)
    inputs = rng.standard_normal((_NUM_GOLDEN, d_model))
    for i in range(_NUM_GOLDEN // 2):
        row = rows[i % len(rows)][1]
        floor = max(row.threshold, 0.0) - row.bias
        norm = float(row.weight @ row.weight) or 1.0
        inputs[i] += row.weight * (1.5 * floor + 1.0 + i) / norm
    return inputs.astype(np.float32)
