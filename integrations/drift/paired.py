"""The same requests run by two models: how much the second one's activations lie further along each
watched direction.

Only tokens that both models read alike are compared: up to the first that differs. The unit is the
group of requests; had the models been the same, each group's change could as well be the other way.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from saeguard.integrations.discovery.activations import activations_at, hook_points_of
from saeguard.monitor.errors import ConfigError
from saeguard.monitor.watchlist import Site, Watchlist, projections
from saeguard.rules.calibration.labels import Label
from saeguard.rules.drift.discoveries import q_values
from saeguard.rules.phases import Phase
from saeguard.rules.recordings.offline import RecordedRequest

FALSE_DISCOVERY_RATE = 0.05
MATERIAL = 0.1
"""Of a feature's own spread over tokens."""

_NUM_DRAWS = 5000
_DRAWS_AT_ONCE = 250
_NUM_BOOTSTRAPS = 1000
_MIN_GROUPS = 6  # of which the signs are 64 to one

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Pair:
    """One request, run by both, and how many of its first tokens are the same."""

    before: RecordedRequest
    after: RecordedRequest
    num_tokens: int


Groups = Sequence[Sequence[Pair]]
Sides = tuple[Doubles, Doubles]


@dataclass(frozen=True, slots=True)
class ScoreChange:
    """Of one feature. Numbers are those of its product with the activations, before bias and gate;
    or of its scores, where only these were recorded.
    """

    feature: str
    mean_before: float
    change: float
    """Of the mean over tokens, groups counting alike."""
    low: float
    high: float
    """Its 95 % interval."""
    spreads: float
    """The change / standard deviation over the tokens of the first model."""
    times_random: float | None
    """How many times as much as the mean activation has changed along a random direction; None
    where no activations were recorded.
    """
    p_value: float
    q_value: float = 1.0

    @property
    def has_moved(self) -> bool:
        return self.q_value <= FALSE_DISCOVERY_RATE and abs(self.spreads) >= MATERIAL


@dataclass(frozen=True, slots=True)
class PairedChange:
    """All of it, the most moved feature first."""

    changes: tuple[ScoreChange, ...]
    num_requests: int
    num_groups: int
    num_tokens: int
    num_unpaired: int
    """Requests of which one model has no record, or not one token is the same."""

    @property
    def has_changed(self) -> bool:
        """More than chance, however little."""
        return any(change.q_value <= FALSE_DISCOVERY_RATE for change in self.changes)

    @property
    def has_enough(self) -> bool:
        return self.num_groups >= _MIN_GROUPS


def compare_pairs(
    before: Sequence[RecordedRequest],
    after: Sequence[RecordedRequest],
    watchlist: Watchlist,
    known: Mapping[str, Label],
    seed: int = 0,
) -> PairedChange:
    """
    Raises:
        ConfigError: no request is on both sides, or a feature was not recorded.
    """
    pairs = _pairs(before, after)
    if not pairs:
        raise ConfigError(
            "no request was recorded from both models: their ids are compared, and their tokens",
            "run the same --data through both by saeguard capture",
        )
    groups: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        groups[_group(pair.before.context.id, known)].append(pair)
    rng = np.random.default_rng(seed)
    changes = [
        change
        for site in watchlist.sites
        for change in _of_site(site, watchlist, list(groups.values()), rng)
    ]
    q = q_values([change.p_value for change in changes])
    changes = [replace(c, q_value=float(each)) for c, each in zip(changes, q, strict=True)]
    return PairedChange(
        changes=tuple(sorted(changes, key=lambda c: -abs(c.spreads))),
        num_requests=len(pairs),
        num_groups=len(groups),
        num_tokens=sum(pair.num_tokens for pair in pairs),
        num_unpaired=len(before) + len(after) - 2 * len(pairs),
    )


def _pairs(before: Sequence[RecordedRequest], after: Sequence[RecordedRequest]) -> list[Pair]:
    by_id = {request.context.id: request for request in after if request.context.id}
    found = [
        Pair(old, new, _num_alike(old, new))
        for old in before
        if (new := by_id.get(old.context.id)) is not None
    ]
    return [pair for pair in found if pair.num_tokens]


def _num_alike(old: RecordedRequest, new: RecordedRequest) -> int:
    """Of the recorded tokens the first ones that are the same."""
    length = min(len(old.positions), len(new.positions))
    alike = old.positions[:length] == new.positions[:length]
    if old.token_ids is not None and new.token_ids is not None:
        alike &= old.token_ids[:length] == new.token_ids[:length]
    elif len(old.positions) != len(new.positions):
        # Answers of two models that nobody can compare: what the prompts are is all that is sure.
        alike &= (old.phases[:length] <= Phase.PROMPT) & (new.phases[:length] <= Phase.PROMPT)
    return length if alike.all() else int(np.argmin(alike))


def _group(name: str, known: Mapping[str, Label]) -> str:
    label = known.get(name)
    return name if label is None or label.group is None else f"group {label.group}"


def _of_site(
    site: Site, watchlist: Watchlist, groups: Groups, rng: np.random.Generator
) -> list[ScoreChange]:
    is_raw = site.hook_point in hook_points_of(groups[0][0].before)
    # Of a probe of several rows: the rows where there are activations, else the score made of them.
    left_out = watchlist.heads if is_raw else watchlist.head_rows
    columns = {f.name: i for i, f in enumerate(site.features) if f.name not in left_out}

    def read(request: RecordedRequest) -> Doubles:
        if is_raw:
            return _products(request, site)[:, list(columns.values())]
        return _recorded(request, site, list(columns))

    values = [(old, new) for old, new in (_of_group(pairs, read) for pairs in groups) if len(old)]
    if not values:
        raise ConfigError(f"no token of both models has scores of {', '.join(columns)}")
    before = np.array([old.mean(axis=0) for old, _ in values]).mean(axis=0)
    changes = np.array([(new - old).mean(axis=0) for old, new in values])
    spread = np.concatenate([old for old, _ in values]).std(axis=0)
    times = _times_random(site.weight[list(columns.values())], site, groups) if is_raw else None
    low, high = _interval(changes, rng)
    p_values = _p_values(changes, rng)
    mean = changes.mean(axis=0)
    return [
        ScoreChange(
            feature=name,
            mean_before=float(before[i]),
            change=float(mean[i]),
            low=float(low[i]),
            high=float(high[i]),
            # Where it never varied, any change is a whole spread.
            spreads=float(mean[i] / spread[i]) if spread[i] else float(np.sign(mean[i])),
            times_random=None if times is None else times[i],
            p_value=float(p_values[i]),
        )
        for i, name in enumerate(columns)
    ]


def _of_group(pairs: Sequence[Pair], read: Callable[[RecordedRequest], Doubles]) -> Sides:
    """What both models have of the same tokens, [tokens, numbers] each."""
    old, new = (
        np.concatenate([read(request)[: pair.num_tokens] for pair, request in side])
        for side in ([(p, p.before) for p in pairs], [(p, p.after) for p in pairs])
    )
    seen = ~np.isnan(old).any(axis=1) & ~np.isnan(new).any(axis=1)
    return old[seen], new[seen]


def _products(request: RecordedRequest, site: Site) -> Doubles:
    """Of the activations with the features' rows. The first token is far out, and is left out."""
    products = projections(activations_at(request, site.hook_point), site)
    products[request.positions == 0] = np.nan
    return products


def _recorded(request: RecordedRequest, site: Site, names: Sequence[str]) -> Doubles:
    if missing := [name for name in names if name not in request.columns]:
        raise ConfigError(
            f"{request.source or request.context.id}: has neither scores of {', '.join(missing)} "
            f"nor activations of {site.hook_point}",
            f"saeguard capture MODEL --data D --activations {site.hook_point}",
        )
    columns = [request.columns.index(name) for name in names]
    return request.scores[:, columns].astype(np.float64)


def _times_random(weight: npt.NDArray[np.float32], site: Site, groups: Groups) -> list[float]:
    """|d · change| / what a random unit vector has of the change of the mean activation."""

    def read(request: RecordedRequest) -> Doubles:
        x = activations_at(request, site.hook_point).astype(np.float64)
        x[request.positions == 0] = np.nan
        return x

    sides = [_of_group(pairs, read) for pairs in groups]
    change = np.mean([(new - old).mean(axis=0) for old, new in sides if len(old)], axis=0)
    rows = weight.astype(np.float64)
    norms = np.linalg.norm(rows, axis=1) * np.linalg.norm(change)
    cosines = np.abs(rows @ change) / np.where(norms > 0, norms, np.inf)
    return [float(cosine) * len(change) ** 0.5 for cosine in cosines]


def _interval(changes: Doubles, rng: np.random.Generator) -> Sides:
    """Of their mean over groups, at 95 %, [features] each."""
    num = len(changes)
    weights = rng.multinomial(num, np.full(num, 1 / num), size=_NUM_BOOTSTRAPS) / num
    low, high = np.quantile(weights @ changes, [0.025, 0.975], axis=0)
    return low, high


def _p_values(changes: Doubles, rng: np.random.Generator) -> Doubles:
    """How often a mean is as large where each group's sign is a coin's, [features]."""
    size = np.abs(changes.mean(axis=0)) * (1 - 1e-9)
    num_larger = np.zeros(changes.shape[1])
    for _ in range(_NUM_DRAWS // _DRAWS_AT_ONCE):
        signs = rng.integers(0, 2, (_DRAWS_AT_ONCE, len(changes))) * 2.0 - 1.0
        num_larger += (np.abs(signs @ changes) / len(changes) >= size).sum(axis=0)
    return np.asarray((1 + num_larger) / (1 + _NUM_DRAWS))
