"""Turn the features that the rules name into a watchlist. Offline; a serving process never does
this.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from saeguard.monitor import watchlist as wl
from saeguard.monitor.errors import CompileError, SaeguardError
from saeguard.monitor.feature_labels import LabelTable
from saeguard.monitor.heads import Head, row_name
from saeguard.monitor.sites import HookPoint
from saeguard.rules import Feature, RouterFeature, RuleSet

_NUM_GOLDEN = 16
_FILE = ("path", "layer", "norm_scaling_factor", "neuronpedia")
"""What features have in common that are read together."""


@dataclass(frozen=True, slots=True)
class FeatureRow:
    """One feature as a row of its site: `p = s(x) * (x @ weight) + bias`, gated by
    `threshold`; in float64.
    """

    hook_point: HookPoint
    weight: npt.NDArray[np.float64]  # [inputs]; of a router as long as needed
    bias: float
    threshold: float
    source_sha256: str
    index: int
    norm: wl.Norm = "none"
    inexact_reason: str = ""
    """Why the row is not exactly the feature; empty where it is."""
    neuronpedia: str = ""
    """The SAE as Neuronpedia names it; empty where that is not known."""
    head: Head | None = None
    """What makes the score of `rows`, where this one is nothing but the column that it goes to."""
    rows: tuple[FeatureRow, ...] = ()


Reader = Callable[[Sequence[Feature], Path | None], list[FeatureRow]]
"""Of features of one file, and a file of activations to measure on what they are only near to."""


def compile_watchlist(
    ruleset: RuleSet, sample: Path | None = None, labels: LabelTable | None = None
) -> wl.Watchlist:
    """The watchlist of every feature that some rule uses.

    Args:
        sample: activations of the model, [tokens, inputs] by hook point: what stands in for an
            activation that no row can tell (TopK) is measured on them.
        labels: for features to which the rules give none.

    Raises:
        CompileError: a source cannot be read, or sources disagree about `d_model`; all faults at
        once.
    """
    rows: list[tuple[Feature, FeatureRow]] = []
    faults: list[str] = []
    for (kind, *_), features in _by_source(ruleset).items():
        try:
            rows += zip(features, _reader(kind)(features, sample), strict=True)
        except SaeguardError as error:
            faults.append(f"{features[0].location}: {error}")
    if faults:
        raise CompileError("\n".join(faults))
    if not rows:
        raise CompileError("the rules use no features, so there is nothing to watch")
    widths = {len(row.weight) for _, row in rows if row.hook_point.is_d_model_wide}
    if len(widths) > 1:
        raise CompileError(f"the sources disagree about d_model: {sorted(widths)}")
    by_site: dict[HookPoint, list[tuple[Feature, FeatureRow]]] = {}
    for feature, row in rows:
        own = [(_row_of(feature, i), r) for i, r in enumerate(row.rows)]
        by_site.setdefault(row.hook_point, []).extend([(feature, row), *own])
    return wl.build(
        widths.pop() if widths else None,
        [_site(at, rows, labels or {}) for at, rows in by_site.items()],
        {feature.name: row.head for feature, row in rows if row.head is not None},
    )


def _row_of(feature: Feature, row: int) -> Feature:
    """What stands for a row of a head, and is no feature that rules can name."""
    return replace(feature, name=row_name(feature.name, row), label="")


def _by_source(ruleset: RuleSet) -> Mapping[tuple[Any, ...], list[Feature]]:
    """Features that are read together: those of one file, or all those of routers."""
    groups: dict[tuple[Any, ...], list[Feature]] = {}
    for name in ruleset.used_features():
        feature = ruleset.features[name]
        source = feature.source
        file = [getattr(source, key, None) for key in _FILE]
        groups.setdefault((source.kind, *file), []).append(feature)
    return groups


def _router_rows(features: Sequence[Feature], sample: Path | None = None) -> list[FeatureRow]:
    """Each picks one number that the router says; nothing has to be read for that."""
    rows = []
    for feature in features:
        source = feature.source
        assert isinstance(source, RouterFeature)
        picked = wl.router_input(source.expert, feature.units)
        rows.append(
            FeatureRow(
                hook_point=HookPoint(source.layer, "router"),
                weight=np.eye(1, picked + 1, picked)[0],
                bias=0.0,
                threshold=-np.inf,
                source_sha256="",
                index=source.expert,
            )
        )
    return rows


def _reader(kind: str) -> Reader:
    if kind == RouterFeature.kind:
        return _router_rows
    for entry in entry_points(group="saeguard.sources", name=kind):
        reader: Reader = entry.load()
        return reader
    raise CompileError(f"no reader for features of kind {kind!r} is installed")


def _site(
    hook_point: HookPoint, rows: Sequence[tuple[Feature, FeatureRow]], labels: LabelTable
) -> wl.Site:
    weight = np.zeros((len(rows), max(len(row.weight) for _, row in rows)))
    for i, (_, row) in enumerate(rows):
        weight[i, : len(row.weight)] = row.weight
    site = wl.Site(
        hook_point=hook_point,
        features=tuple(_watched(feature, row, labels) for feature, row in rows),
        weight=weight.astype(np.float32),
        bias=np.array([row.bias for _, row in rows], dtype=np.float32),
        threshold=np.array([row.threshold for _, row in rows], dtype=np.float32),
        golden_inputs=_golden_inputs([row for _, row in rows], weight, seed=hook_point.layer),
        golden_scores=np.empty((0, len(rows)), dtype=np.float32),
    )
    scores = wl.encode(site.golden_inputs, site).astype(np.float32)
    return replace(site, golden_scores=scores)


def _watched(feature: Feature, row: FeatureRow, labels: LabelTable) -> wl.WatchedFeature:
    found = None if feature.label else labels.get((row.neuronpedia, row.index))
    return wl.WatchedFeature(
        name=feature.name,
        kind=feature.source.kind,
        # The file's name, not its path: a watchlist must not depend on where it was compiled.
        source=feature.source.origin,
        source_sha256=row.source_sha256,
        index=row.index,
        label=found.text if found else feature.label,
        label_source=found.file if found else "",
        label_method=found.method if found else "",
        label_date=found.date if found else "",
        neuronpedia=row.neuronpedia,
        units=feature.units,
        norm=row.norm,
        exact=not row.inexact_reason,
        inexact_reason=row.inexact_reason,
    )


def _golden_inputs(
    rows: Sequence[FeatureRow], weight: npt.NDArray[np.float64], seed: int
) -> npt.NDArray[np.float32]:
    """Inputs on which gates are open as well as closed: noise, pushed along some row's
    direction.
    """
    rng = np.random.default_rng(seed)
    inputs = rng.standard_normal((_NUM_GOLDEN, weight.shape[1]))
    for i in range(_NUM_GOLDEN // 2):
        row, direction = rows[i % len(rows)], weight[i % len(rows)]
        floor = max(row.threshold, 0.0) - row.bias
        norm = float(direction @ direction) or 1.0
        inputs[i] += direction * (1.5 * floor + 1.0 + i) / norm
    # To numbers that 16 bits hold: what is tested is the arithmetic, not the rounding of its input.
    return (inputs.astype(np.float32).view(np.uint32) & 0xFFFF0000).view(np.float32)
