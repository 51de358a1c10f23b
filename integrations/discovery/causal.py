"""Whether chosen features make the model behave as it does, or only show that it does: the model
answers prompts while they are taken away or added, and beside that with random features instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from saeguard.integrations.discovery.behaviour import Behaviour, Way, split_prompts
from saeguard.integrations.discovery.corpus import Corpus
from saeguard.integrations.discovery.effects import Effect
from saeguard.integrations.discovery.generation import Answering
from saeguard.integrations.discovery.interventions import AddFeatures, SetFeatures
from saeguard.integrations.discovery.mean_differences import MeanDifferences, mean_differences
from saeguard.integrations.discovery.prompts import Prompt
from saeguard.integrations.discovery.sae_features import Block, Sae
from saeguard.integrations.discovery.search import Discovery
from saeguard.monitor.sites import HookPoint

Floats = npt.NDArray[np.float32]

_NUM_RANDOM = 5
_NEAR = 1.5
"""By what factor the density of a random feature may differ."""
_SAMPLE_TOKENS = 20_000


def verify(
    corpus: Corpus,
    found: Discovery,
    sae: Sae,
    model: str,
    prompts: Sequence[Prompt],
    seed: int = 0,
) -> list[Effect]:
    """
    Raises:
        SaeguardError: the model, the SAE, a recording or the prompts cannot be used.
    """
    folds = split_prompts(prompts, seed)
    place = found.block.hook_point
    answering = Answering(model, place)
    sample = _Sample.of(corpus, found)
    chosen = sae.block([each.candidate.feature for each in found.chosen if each.weight > 0])
    others = _random_features(sample, chosen.indices, sae, seed)

    def at(block: Block, targets: Floats) -> Way:
        return lambda _: {place: SetFeatures(block, sae.written_by(block.indices), targets)}

    def added(block: Block) -> Way:
        return lambda _: {place: AddFeatures(sae.written_by(block.indices), amounts)}

    zero = np.zeros(len(chosen.indices), np.float32)
    mean = _in_chunks(chosen, sample.negatives).mean(axis=0)
    amounts = _when_active(chosen, sample.positives)
    positives, negatives = (
        Behaviour(answering, prompts, folds, are_positives) for are_positives in (True, False)
    )
    axes = mean_differences(positives, negatives, answering.layers, _NUM_RANDOM, seed)
    here = [place] if place in answering.layers else []
    return [
        positives.under("untouched", lambda _: {}),
        positives.under("features at 0", at(chosen, zero)),
        positives.under("features at the negatives' mean", at(chosen, mean)),
        positives.under(f"{_NUM_RANDOM} random sets at 0", *(at(b, zero) for b in others)),
        *_moved(positives, axes, here, str(place)),
        *_moved(positives, axes, answering.layers, "every layer"),
        negatives.under("untouched", lambda _: {}),
        negatives.under("features added", added(chosen)),
        negatives.under(f"{_NUM_RANDOM} random sets added", *map(added, others)),
        *_moved(negatives, axes, here, str(place)),
        *_moved(negatives, axes, answering.layers, "every layer"),
    ]


def _moved(
    behaviour: Behaviour, axes: MeanDifferences, places: Sequence[HookPoint], where: str
) -> Iterator[Effect]:
    """Along the mean difference to where the other side is, and along random directions."""
    if not places:
        return
    to_positives = not behaviour.are_positives
    side = "positives'" if to_positives else "negatives'"
    yield behaviour.under(
        f"mean difference at {where}, to the {side} mean", axes.way(places, to_positives)
    )
    yield behaviour.under(
        "random directions, likewise",
        *(axes.way(places, to_positives, draw) for draw in range(_NUM_RANDOM)),
    )


@dataclass(frozen=True, slots=True)
class _Sample:
    """Activations of tokens of the training side, [tokens, inputs]."""

    negatives: Floats
    positives: Floats

    @classmethod
    def of(cls, corpus: Corpus, found: Discovery) -> _Sample:
        parts: tuple[list[Floats], list[Floats]] = [], []
        counts = [0, 0]
        for i, _, x in corpus.tokens(found.block.hook_point):
            side = int(corpus.labels[i])
            if found.splits[0].train[i] and counts[side] < _SAMPLE_TOKENS:
                parts[side].append(np.array(x))
                counts[side] += len(x)
        return cls(np.concatenate(parts[0]), np.concatenate(parts[1]))


def _in_chunks(block: Block, x: Floats) -> Floats:
    step = block.tokens_at_once
    return np.concatenate([block(x[i : i + step]) for i in range(0, len(x), step)])


def _when_active(block: Block, x: Floats) -> Floats:
    """The mean of each feature over the tokens on which it is not 0, [features]."""
    scores = _in_chunks(block, x)
    mean: Floats = scores.sum(axis=0) / np.maximum((scores != 0).sum(axis=0), 1).astype(np.float32)
    return mean


def _random_features(sample: _Sample, chosen: Sequence[int], sae: Sae, seed: int) -> list[Block]:
    """Sets of other features, each as often active as one of those that were chosen."""
    num_features, _ = sae.shape()
    tokens = np.concatenate([sample.negatives, sample.positives])
    density = np.concatenate(
        [(_in_chunks(b, tokens) != 0).mean(axis=0) for b in sae.blocks(num_features)]
    )
    rng = np.random.default_rng(seed)
    draws = []
    for _ in range(_NUM_RANDOM):
        drawn: list[int] = []
        for feature in chosen:
            free = np.setdiff1d(np.arange(num_features), [*chosen, *drawn])
            ratio = np.maximum(density[free], 1e-6) / max(density[feature], 1e-6)
            near = free[(ratio < _NEAR) & (ratio > 1 / _NEAR)]
            if not len(near):  # none is as dense: the nearest ones
                near = free[np.argsort(np.abs(np.log(ratio)))[:_NUM_RANDOM]]
            drawn.append(int(rng.choice(near)))
        draws.append(sae.block(drawn))
    return draws
