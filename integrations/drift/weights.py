"""How much of the change between two checkpoints lies along each watched direction.

A feature's score is a product with the row of its encoder, so that it moves with what the weights
write along that row. For a unit vector d and the change D [outputs, inputs] of a matrix,

    energy(d) = |d @ D|^2        expected of a random d: |D|^2 / outputs

and `times_random` is the root of their ratio, all matrices before the hook point taken together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from saeguard.integrations.drift.checkpoints import Adapter, Block, Checkpoint
from saeguard.integrations.drift.writers import Writer, writers_of, writes_before
from saeguard.monitor.errors import ConfigError
from saeguard.monitor.sites import HookPoint
from saeguard.rules.drift.discoveries import q_values

NUM_RANDOM = 999
MATERIAL = 1.5
"""`times_random` from which a concept counts as moved, where that is no chance."""

Doubles = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Directions:
    """At one hook point, as unit vectors."""

    hook_point: HookPoint
    names: tuple[str, ...]
    watched: Doubles
    """[names, d_model]"""
    others: Doubles
    """[others, d_model]: other features of the same SAEs, to tell what is moved apart from all."""


@dataclass(frozen=True, slots=True)
class ConceptChange:
    """Of one watched direction."""

    feature: str
    hook_point: str
    times_random: float
    """How many times as much as along a random direction."""
    share: float
    """Of the change's energy, 0 to 1."""
    above_random: float
    """Share of random directions along which it has changed less."""
    above_others: float | None
    """Share of other features of its SAE along which it has changed less; None where there are
    none."""
    relative: float
    """Change along it / what the weights before write along it."""
    most_by: str
    """The tensor that it has changed most in."""
    p_value: float
    q_value: float = 1.0

    @property
    def has_moved(self) -> bool:
        return self.q_value <= 0.05 and self.times_random >= MATERIAL


@dataclass(frozen=True, slots=True)
class SiteChange:
    """All of one hook point."""

    hook_point: str
    num_tensors: int
    relative: float
    """Norm of the change / norm of the weights before."""
    concepts: tuple[ConceptChange, ...]
    """The most changed first."""


@dataclass(frozen=True, slots=True)
class WeightChange:
    """Between two checkpoints."""

    sites: tuple[SiteChange, ...]
    skipped: Mapping[str, str]
    """Hook point -> why nothing can be said of it."""
    num_other_tensors: int
    """That have changed and do not write into the residual stream themselves."""

    @property
    def has_changed(self) -> bool:
        return bool(self.num_other_tensors) or any(site.relative for site in self.sites)


@dataclass(frozen=True, slots=True, eq=False)
class _Energies:
    """Of one tensor."""

    change: Doubles
    """[directions]"""
    before: Doubles
    """[directions]"""
    change_total: float
    before_total: float


def compare_weights(
    before: Checkpoint, after: Checkpoint | Adapter, sites: Sequence[Directions], seed: int = 0
) -> WeightChange:
    """
    Raises:
        SaeguardError: they are not two of one model, or cannot be read.
    """
    writers = writers_of(before)
    width = before.shape(writers[0].name)[-1 if writers[0].outputs_last else 0]
    directions, places = _stacked(sites, width, seed)
    needed = [w for w in writers if any(writes_before(w, site.hook_point) for site in sites)]
    energies = {w: _energies(before, after, w, directions) for w in needed}
    found, skipped = [], {}
    for site, place in zip(sites, places, strict=True):
        of_site = {w: e for w, e in energies.items() if writes_before(w, site.hook_point)}
        if not of_site:
            skipped[str(site.hook_point)] = "it is no sum of what weights write"
            continue
        found.append(_site(site, of_site, place))
    return WeightChange(
        sites=_with_q_values(found),
        skipped=skipped,
        num_other_tensors=_num_others(before, after, {w.name for w in writers}),
    )


def _stacked(
    sites: Sequence[Directions], width: int, seed: int
) -> tuple[Floats, list[tuple[slice, slice]]]:
    """All directions, random ones first; and where the watched and the others of each site are."""
    random = np.random.default_rng(seed).standard_normal((NUM_RANDOM, width))
    rows, places, start = [random / np.linalg.norm(random, axis=1, keepdims=True)], [], NUM_RANDOM
    for site in sites:
        if site.watched.shape[1] != width:
            raise ConfigError(
                f"the features at {site.hook_point} are rows of {site.watched.shape[1]} numbers, "
                f"and the model's residual stream has {width}"
            )
        middle = start + len(site.watched)
        stop = middle + len(site.others)
        rows += [site.watched, site.others]
        places.append((slice(start, middle), slice(middle, stop)))
        start = stop
    return np.concatenate(rows).astype(np.float32), places


def _energies(
    before: Checkpoint, after: Checkpoint | Adapter, writer: Writer, directions: Floats
) -> _Energies:
    old = _of_blocks(before.blocks(writer.name), writer, directions)
    if isinstance(after, Adapter):
        change = _of_adapter(after, writer, directions)
    else:
        change = _of_blocks(_differences(before, after, writer), writer, directions)
    return _Energies(change[0], old[0], change[1], old[1])


def _of_blocks(
    blocks: Iterable[Block], writer: Writer, directions: Floats
) -> tuple[Doubles, float]:
    """Energy along each direction, and all of it."""
    energy, total = np.zeros(len(directions)), 0.0
    product: Floats | None = None
    for start, rows in blocks:
        total += float(np.sum(np.square(rows, dtype=np.float64)))
        if writer.outputs_last:
            energy += np.square(directions @ rows.T, dtype=np.float64).sum(axis=1)
            continue
        part = directions[:, start : start + len(rows)] @ rows
        product = part if product is None else product + part
    if product is not None:
        energy += np.square(product, dtype=np.float64).sum(axis=1)
    return energy, total


def _differences(before: Checkpoint, after: Checkpoint, writer: Writer) -> Iterator[Block]:
    """Rows of after - before; of an embedding those that both have."""
    name = writer.name
    if name not in after.tensors:
        raise ConfigError(f"{after.path}: has no {name}, which {before.path} has")
    shapes = before.shape(name), after.shape(name)
    if shapes[0] != shapes[1] and (writer.part != "embedding" or shapes[0][1:] != shapes[1][1:]):
        raise ConfigError(
            f"{name} is of shape {shapes[0]} in {before.path} and {shapes[1]} in {after.path}",
            "give two checkpoints of one model",
        )
    for (start, old), (_, new) in zip(before.blocks(name), after.blocks(name), strict=False):
        num_rows = min(len(old), len(new))
        yield start, new[:num_rows] - old[:num_rows]


def _of_adapter(adapter: Adapter, writer: Writer, directions: Floats) -> tuple[Doubles, float]:
    if writer.name not in adapter.parts:
        return np.zeros(len(directions)), 0.0
    b, a = adapter.factors(writer.name)
    gram = (a @ a.T).astype(np.float64)  # |d B A|^2 = d B (A A^T) B^T d
    along = (directions @ b).astype(np.float64)
    return np.sum(along @ gram * along, axis=1), float(np.sum((b.T @ b) * gram))


def _site(
    site: Directions, energies: Mapping[Writer, _Energies], place: tuple[slice, slice]
) -> SiteChange:
    change = np.sum([e.change for e in energies.values()], axis=0)
    old = np.sum([e.before for e in energies.values()], axis=0)
    total = sum(e.change_total for e in energies.values())
    old_total = sum(e.before_total for e in energies.values())
    watched, others = place
    random_energies, other_energies = np.sort(change[:NUM_RANDOM]), change[others]
    concepts = []
    for name, i in zip(site.names, range(watched.start, watched.stop), strict=True):
        share = float(change[i] / total) if total else 0.0
        num_below = int(np.searchsorted(random_energies, change[i]))
        concepts.append(
            ConceptChange(
                feature=name,
                hook_point=str(site.hook_point),
                times_random=float(np.sqrt(share * site.watched.shape[1])),
                share=share,
                above_random=num_below / NUM_RANDOM,
                above_others=float(np.mean(other_energies < change[i]))
                if len(other_energies)
                else None,
                relative=float(np.sqrt(change[i] / old[i])) if old[i] else 0.0,
                most_by=max(energies, key=lambda w: float(energies[w].change[i])).name,
                p_value=(1 + NUM_RANDOM - num_below) / (1 + NUM_RANDOM) if total else 1.0,
            )
        )
    return SiteChange(
        hook_point=str(site.hook_point),
        num_tensors=len(energies),
        relative=float(np.sqrt(total / old_total)) if old_total else 0.0,
        concepts=tuple(sorted(concepts, key=lambda c: -c.times_random)),
    )


def _with_q_values(sites: Sequence[SiteChange]) -> tuple[SiteChange, ...]:
    """Over all concepts of all sites."""
    q = iter(q_values([c.p_value for site in sites for c in site.concepts]).tolist())
    return tuple(
        replace(site, concepts=tuple(replace(c, q_value=next(q)) for c in site.concepts))
        for site in sites
    )


def _num_others(before: Checkpoint, after: Checkpoint | Adapter, writers: set[str]) -> int:
    """Tensors that differ and are no writers."""
    if isinstance(after, Adapter):
        return len(after.parts.keys() - writers)
    return sum(
        any(
            not np.array_equal(old, new)
            for (_, old), (_, new) in zip(before.blocks(name), after.blocks(name), strict=False)
        )
        for name in before.tensors.keys() - writers
        if name in after.tensors and len(before.shape(name)) <= 2
    )
