"""The watchlist: the compiled artefact that a server loads instead of SAEs.

One safetensors file. For every tapped site (a hook point of the model) it holds the rows of the
watched features, already folded so that one formula covers SAE features and probes alike:

    p = s(x) * (x @ weight.T) + bias    x [tokens, inputs], weight [features, inputs]
    score = p if p > threshold else 0   strict, as in JumpReLU; a ReLU has threshold 0, a probe -inf

s(x) is 1, or what the feature's SAE divides its input by, one number per token (`Norm`).

x is what is read at the site's hook point (sites.py): the residual stream after a layer, for one,
or what the router of a layer says of its experts: the weight and the logit of expert 0, of expert
1, and so on. A row of a router's site is as long as its last watched expert needs; how many experts
there are only the model knows.

A probe of several rows has a head (heads.py): a column of its own beside those of its rows, in
which the taps leave 0 and the monitor puts the score.

Beside the rows the file holds golden vectors: inputs with the scores that a float64 evaluation of
the formula gives, on which every worker tests itself before it serves. The header says what each
column is and where it came from.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec
import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save_file

from saeguard.monitor.errors import SaeguardError, UnsupportedError
from saeguard.monitor.feature_labels import neuronpedia_url
from saeguard.monitor.heads import Head, row_name, row_names
from saeguard.monitor.sites import HookPoint

FORMAT_VERSION = 2
_WITH_HEADS = 3
"""Of watchlists that have heads, which an older monitor would take for features that are 0."""
_ARRAYS = ("weight", "bias", "threshold", "golden_inputs", "golden_scores")

Floats = npt.NDArray[np.float32]


Norm = Literal["none", "constant_norm_rescale", "layer_norm"]
"""Of a feature's input x: as it is, times sqrt(inputs) / |x|, or divided by its standard deviation
(sae-lens' names; the mean is in the rows already)."""

NORMS: tuple[Norm, ...] = get_args(Norm)

LAYER_NORM_EPS = 1e-5
"""Added to the standard deviation, which is that of a sample (inputs - 1)."""


class WatchlistError(SaeguardError):
    """A watchlist file is missing, damaged, or of another version."""


@dataclass(frozen=True, slots=True)
class WatchedFeature:
    """What one column of the scores means."""

    name: str
    kind: str
    """`sae`, `probe` or `router`."""
    source: str
    """Where the row came from, as the rules named it."""
    source_sha256: str
    index: int
    """Of the row in its source; of a router's feature the expert."""
    label: str | None = None
    label_source: str = ""
    """The file that the label is from; empty where it is the rules' own."""
    label_method: str = ""
    label_date: str = ""
    neuronpedia: str = ""
    """The SAE as Neuronpedia names it, `model/source`; empty where it is not known there."""
    units: str = "raw"
    norm: Norm = "none"
    exact: bool = True
    """False where a per-row gate can only approximate the SAE (TopK)."""
    inexact_reason: str = ""

    @property
    def neuronpedia_url(self) -> str | None:
        """Its page there."""
        return neuronpedia_url(self.neuronpedia, self.index) if self.neuronpedia else None


@dataclass(frozen=True, slots=True)
class Site:
    """The watched rows of one hook point; shapes as in the module's docstring."""

    hook_point: HookPoint
    features: tuple[WatchedFeature, ...]
    weight: Floats = field(repr=False)
    bias: Floats = field(repr=False)
    threshold: Floats = field(repr=False)
    golden_inputs: Floats = field(repr=False)  # [golden, inputs]
    golden_scores: Floats = field(repr=False)  # [golden, features]

    @property
    def norms(self) -> tuple[Norm, ...]:
        """Of each feature."""
        return tuple(feature.norm for feature in self.features)


@dataclass(frozen=True, slots=True)
class Watchlist:
    """Everything a worker and the monitor need to know about the scores."""

    d_model: int | None
    """None where nothing is watched that is as wide."""
    sites: tuple[Site, ...]
    digest: str
    heads: Mapping[str, Head] = field(default_factory=dict)
    """By the names of their features."""

    @property
    def features(self) -> tuple[str, ...]:
        """What rules may read, in the order of the columns: all but the rows of heads."""
        left_out = self.head_rows
        return tuple(name for name in self.columns if name not in left_out)

    @property
    def head_rows(self) -> frozenset[str]:
        """The columns of the rows of heads, which are no features themselves."""
        return frozenset(row_names(self.heads))

    @property
    def columns(self) -> tuple[str, ...]:
        """Feature name of each score column: the sites' features one after another."""
        return tuple(feature.name for site in self.sites for feature in site.features)

    @property
    def identities(self) -> tuple[str, ...]:
        """Of each score column, a text that only a feature of the same name and row has."""
        rows = {
            feature.name: f"{site.hook_point} {feature.norm} {_row_digest(site, i)}"
            for site in self.sites
            for i, feature in enumerate(site.features)
        }
        heads = {
            name: " ".join([head.digest, *(rows[row_name(name, i)] for i in range(head.num_rows))])
            for name, head in self.heads.items()
        }
        return tuple(f"{name} {text}" for name, text in (rows | heads).items())

    @property
    def labels(self) -> dict[str, str]:
        return {f.name: f.label for site in self.sites for f in site.features if f.label}

    @property
    def links(self) -> dict[str, str]:
        """Pages about features, by their names."""
        features = [feature for site in self.sites for feature in site.features]
        return {f.name: f.neuronpedia_url for f in features if f.neuronpedia_url}


def encode(x: npt.NDArray[Any], site: Site) -> npt.NDArray[np.float64]:
    """The formula above in float64: the reference for golden vectors and tests.

    Args:
        x: what the site reads, [tokens, inputs].

    Returns:
        Scores, [tokens, features].
    """
    p = projections(x, site) + site.bias.astype(np.float64)
    return np.where(p <= site.threshold, 0.0, p)  # NaN is kept: a broken model must not look safe


def projections(x: npt.NDArray[Any], site: Site) -> npt.NDArray[np.float64]:
    """s(x) * (x @ weight.T) in float64, [tokens, features]."""
    x = x.astype(np.float64)
    products = x @ site.weight.T.astype(np.float64)
    if all(norm == "none" for norm in site.norms):
        return products
    with np.errstate(divide="ignore", invalid="ignore"):  # zeros give NaN, as they do in sae-lens
        return products * input_scales(x)[:, [NORMS.index(norm) for norm in site.norms]]


def input_scales(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """s(x) of each of `NORMS`, [tokens, norms]."""
    rescale = np.sqrt(x.shape[1]) / np.linalg.norm(x, axis=1)
    layer_norm = 1.0 / (x.std(axis=1, ddof=1) + LAYER_NORM_EPS)
    return np.stack([np.ones(len(x)), rescale, layer_norm], axis=1)


def router_input(expert: int, units: str) -> int:
    """Which of the inputs of a router's site is the `weight` or the `logit` of an expert."""
    return 2 * expert + (units == "logit")


def build(
    d_model: int | None, sites: Sequence[Site], heads: Mapping[str, Head] | None = None
) -> Watchlist:
    """A watchlist with its digest, sites in the order of their hook points."""
    ordered, heads = tuple(sorted(sites, key=lambda site: site.hook_point)), heads or {}
    return Watchlist(d_model, ordered, _digest(d_model, ordered, heads), heads)


def save(watchlist: Watchlist, path: Path) -> None:
    """Write the file in one move, so that a reader never meets half of it.

    Raises:
        WatchlistError: the file cannot be written.
    """
    tensors = {
        f"site.{i}.{name}": np.ascontiguousarray(getattr(site, name), dtype=np.float32)
        for i, site in enumerate(watchlist.sites)
        for name in _ARRAYS
    }
    description = _description(watchlist.d_model, watchlist.sites, watchlist.heads)
    header = {**description, "digest": watchlist.digest}
    temporary = path.with_name(path.name + ".partial")
    try:
        save_file(tensors, temporary, metadata={"saeguard": json.dumps(header, sort_keys=True)})
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        raise WatchlistError(f"{path}: cannot be written: {error}", "name another file") from error


def load(path: Path) -> Watchlist:
    """Read a watchlist and check its digest.

    Raises:
        WatchlistError: the file is absent, is not a watchlist, or was changed after it was made.
    """
    if not path.is_file():
        raise WatchlistError(f"{path}: no such watchlist", "make it with: saeguard compile RULES")
    try:
        # Not mapped into memory: were the file cut short by somebody meanwhile, that would end us.
        data = path.read_bytes()
        tensors = load_tensors(data)
        header = _header(data)
        if not header or header.get("version") not in (FORMAT_VERSION, _WITH_HEADS):
            raise WatchlistError(
                f"{path}: not a watchlist of format {FORMAT_VERSION}", "run saeguard compile again"
            )
        sites = tuple(
            _read_site(site, {name: tensors[f"site.{i}.{name}"] for name in _ARRAYS})
            for i, site in enumerate(header["sites"])
        )
        for site in sites:
            _check_shapes(site, header["d_model"])
        heads = msgspec.convert(header.get("heads", {}), dict[str, Head])
        watchlist, digest = build(header["d_model"], sites, heads), header["digest"]
        if missing := {*heads, *watchlist.head_rows} - {*watchlist.columns}:
            raise ValueError(f"it lacks the columns {', '.join(sorted(missing))}")
    except UnsupportedError as error:
        raise WatchlistError(f"{path}: {error.message}", "made by a newer saeguard?") from error
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise WatchlistError(
            f"{path}: cannot be read as a watchlist: {error}", "run saeguard compile again"
        ) from error
    if watchlist.digest != digest:
        raise WatchlistError(f"{path}: was changed after it was made", "run saeguard compile again")
    return watchlist


def _header(data: bytes) -> Any:
    """What `save` put beside the tensors; None where there is nothing."""
    end = 8 + int.from_bytes(data[:8], "little")
    metadata = json.loads(data[8:end]).get("__metadata__") or {}
    return json.loads(metadata.get("saeguard", "null"))


def _read_site(header: dict[str, Any], arrays: dict[str, Floats]) -> Site:
    features = tuple(WatchedFeature(**feature) for feature in header["features"])
    return Site(HookPoint.parse(header["hook_point"]), features, **arrays)


def _check_shapes(site: Site, d_model: int | None) -> None:
    num_features, num_golden = len(site.features), len(site.golden_inputs)
    num_inputs = d_model if site.hook_point.is_d_model_wide else site.weight.shape[-1]
    wanted = {
        "weight": (num_features, num_inputs),
        "bias": (num_features,),
        "threshold": (num_features,),
        "golden_inputs": (num_golden, num_inputs),
        "golden_scores": (num_golden, num_features),
    }
    for name, shape in wanted.items():
        if getattr(site, name).shape != shape:
            raise ValueError(f"{name} of {site.hook_point.place} is not of shape {shape}")


def _row_digest(site: Site, feature: int) -> str:
    """Of what decides the feature's scores, wherever it was read from."""
    row = (site.weight[feature], site.bias[feature], site.threshold[feature])
    return hashlib.sha256(b"".join(np.float32(part).tobytes() for part in row)).hexdigest()


def _description(
    d_model: int | None, sites: Sequence[Site], heads: Mapping[str, Head]
) -> dict[str, Any]:
    with_heads = {name: asdict(head) for name, head in heads.items()}
    return {
        **({"heads": with_heads} if heads else {}),
        "version": _WITH_HEADS if heads else FORMAT_VERSION,
        "d_model": d_model,
        "sites": [
            {
                "layer": site.hook_point.layer,
                "hook_point": str(site.hook_point),
                "features": [asdict(f) for f in site.features],
            }
            for site in sites
        ],
    }


def _digest(d_model: int | None, sites: Sequence[Site], heads: Mapping[str, Head]) -> str:
    description = json.dumps(_description(d_model, sites, heads), sort_keys=True)
    digest = hashlib.sha256(description.encode())
    for site in sites:
        for name in _ARRAYS:
            digest.update(np.ascontiguousarray(getattr(site, name), dtype=np.float32).tobytes())
    return digest.hexdigest()
