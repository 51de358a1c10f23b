"""From labelled activations to a few features, and what they are worth on groups not seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from saeguard.integrations.discovery.accuracy import Accuracy
from saeguard.integrations.discovery.corpus import Corpus
from saeguard.integrations.discovery.directions import mean_directions
from saeguard.integrations.discovery.feature_sets import Candidates, FeatureSet
from saeguard.integrations.discovery.growing import choose
from saeguard.integrations.discovery.judging import Alarm, Judged, Scores, alarm, judge, judge_alone
from saeguard.integrations.discovery.ranking import (
    Candidate,
    rank,
    strata_of,
    training_contrast,
)
from saeguard.integrations.discovery.sae_features import Block, Sae
from saeguard.integrations.discovery.splits import Split, linked, make_splits
from saeguard.monitor.errors import ConfigError
from saeguard.monitor.shards import Runner, run_here

_NUM_CANDIDATES = 32
"""Of a split, for each sign of the weights: among these a set is grown."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What is looked for, and how."""

    max_features: int = 4
    max_q: float = 0.05
    """False-discovery rate of what counts as found."""
    max_false: float = 0.01
    """Of the training side's negatives, at the threshold."""
    train: str = "fit"
    """The split to choose on, where labels name one."""
    num_folds: int = 5
    """Where they name none."""
    hold_out_sources: bool = False
    with_probe: bool = False
    """Whether a linear probe is trained for comparison."""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Chosen:
    """A feature of the set."""

    candidate: Candidate
    weight: float
    train_auroc: float
    held_out: Accuracy
    num_splits: int
    """In how many splits it was chosen."""


@dataclass(frozen=True, slots=True)
class Discovery:
    """What was found."""

    block: Block
    """Of the chosen features."""
    splits: tuple[Split, ...]
    """The first is the one that the set and its threshold are of."""
    is_source_controlled: bool
    num_found: int
    """Features whose false-discovery rate is within the bound."""
    ranked: tuple[Candidate, ...]
    features: FeatureSet
    set_name: str
    """Its name in `judged`."""
    chosen: tuple[Chosen, ...]
    alarm: Alarm
    judged: tuple[Judged, ...]


class NothingFound(ConfigError):
    """No feature tells positives from negatives better than chance does."""


def discover(
    corpus: Corpus,
    sae: Sae,
    settings: Settings,
    progress: Callable[[int], None] = lambda num_features: None,
    runner: Runner = run_here,
) -> Discovery:
    """
    Args:
        runner: where blocks of features are ranked, which is most of the work.

    Raises:
        NothingFound: on the training side of the first split no feature is beyond chance.
        SaeguardError: the SAE, the labels or a recording cannot be used.
    """
    _check_fit(corpus, sae)
    strata = strata_of(corpus)
    splits = _splits(corpus, settings)
    contrasts = [training_contrast(corpus, strata, split, settings.seed) for split in splits]
    rankings = rank(corpus, sae, splits, contrasts, progress, runner)
    found = [ranking.best(_NUM_CANDIDATES, settings.max_q) for ranking in rankings]
    if not found[0]:
        surest = rankings[0].surest()
        nearest = f"the best is feature {surest.feature} at {surest.q:.2f}"
        raise NothingFound(
            f"no feature tells positives from negatives at a false-discovery rate of "
            f"{settings.max_q:g}: {nearest}",
            "label more groups, or capture another hook point and use its SAE",
        )
    pools = [
        [c.feature for c in each] + (ranking.opposed(_NUM_CANDIDATES) if each else [])
        for each, ranking in zip(found, rankings, strict=True)
    ]
    scores = Candidates(corpus, sae.block(sorted({f for pool in pools for f in pool})))
    singles = [FeatureSet.single(each[0].feature, each[0].agg) if each else None for each in found]
    sizes = settings.max_features, settings.seed
    sets = [
        single and choose(scores, pool, single, corpus, split.train, *sizes)
        for pool, single, split in zip(pools, singles, splits, strict=True)
    ]
    first = sets[0]
    assert first is not None
    set_name = f"weighted set of up to {settings.max_features}"
    ways: dict[str, Sequence[Scores]] = {"best feature": [scores.of(each) for each in singles]}
    if settings.max_features > 1:
        ways[set_name] = [scores.of(each) for each in sets]
    for hook_point in corpus.hook_points:
        directions = mean_directions(corpus, hook_point, splits, contrasts)
        ways[f"mean difference, {hook_point}"] = [direction.scores for direction in directions]
    if settings.with_probe:
        from saeguard.integrations.discovery.probe_rival import linear_probes  # needs scikit-learn

        ways["linear probe"] = linear_probes(corpus, splits, settings.seed)
    return Discovery(
        block=sae.block(first.features),
        splits=tuple(splits),
        is_source_controlled=any(strata),
        num_found=int((rankings[0].q.min(axis=1) <= settings.max_q).sum()),
        ranked=tuple(found[0]),
        features=first,
        set_name=set_name,
        chosen=tuple(
            _chosen(rankings[0].of(feature), weight, corpus, splits[0], scores, sets)
            for feature, weight in zip(first.features, first.weights, strict=True)
        ),
        alarm=alarm(scores.of(first), corpus, splits[0], settings.max_false),
        judged=judge(ways, corpus, splits),
    )


def _splits(corpus: Corpus, settings: Settings) -> list[Split]:
    groups: Sequence[str] = corpus.groups
    if settings.hold_out_sources:
        groups = linked(corpus.groups, corpus.sources)
    return make_splits(
        groups, corpus.labels, corpus.splits, settings.train, settings.num_folds, settings.seed
    )


def _check_fit(corpus: Corpus, sae: Sae) -> None:
    block = sae.block([0])
    if block.hook_point not in corpus.hook_points:
        raise ConfigError(
            f"{sae.path}: reads {block.hook_point}, and the recordings have activations of "
            f"{', '.join(map(str, corpus.hook_points))}",
            f"capture with --activations {block.hook_point}",
        )
    _, _, x = next(corpus.tokens(block.hook_point))
    if x.shape[1] != block.weight.shape[1]:
        raise ConfigError(
            f"{sae.path}: reads {block.weight.shape[1]} numbers, and the recordings have "
            f"{x.shape[1]} at {block.hook_point}",
            "use an SAE of this model",
        )


def _chosen(
    candidate: Candidate,
    weight: float,
    corpus: Corpus,
    split: Split,
    scores: Candidates,
    sets: Sequence[FeatureSet | None],
) -> Chosen:
    alone = FeatureSet.single(candidate.feature, candidate.agg)
    return Chosen(
        candidate,
        weight,
        *judge_alone(scores.of(alone), corpus, split),
        sum(candidate.feature in each.features for each in sets if each is not None),
    )
