"""Whether chosen features make the model behave as it does, or only show that it does: the model
answers prompts while they are taken away or added, and beside that with random features instead.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from saeguard.integrations.discovery.corpus import Corpus
from saeguard.integrations.discovery.directions import mean_difference
from saeguard.integrations.discovery.effects import Effect
from saeguard.integrations.discovery.generation import Answering
from saeguard.integrations.discovery.interventions import (
    AddFeatures,
    Intervention,
    MoveTo,
    SetFeatures,
)
from saeguard.integrations.discovery.prompts import Prompt
from saeguard.integrations.discovery.sae_features import Block, Sae
from saeguard.integrations.discovery.search import Discovery
from saeguard.rules.calibration.intervals import Rate
from saeguard.rules.calibration.resampling import rates_of

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
        SaeguardError: the model, the SAE or a recording cannot be used.
    """
    answering = Answering(model, found.block.hook_point)
    sample = _Sample.of(corpus, found)
    chosen = found.block
    others = _random_features(sample, chosen.indices, sae, seed)
    direction = mean_difference(corpus, chosen.hook_point, found.splits[0])
    rng = np.random.default_rng(seed)
    directions = [_unit(rng.standard_normal(len(direction))) for _ in range(_NUM_RANDOM)]

    def at(block: Block, targets: Floats) -> Intervention:
        return SetFeatures(block, sae.written_by(block.indices), targets)

    def added(block: Block) -> Intervention:
        return AddFeatures(sae.written_by(block.indices), amounts)

    def at_mean(along: Floats, tokens: Floats) -> Intervention:
        return MoveTo(along, float((tokens @ along).mean()))

    zero = np.zeros(len(chosen.indices), np.float32)
    mean = _in_chunks(chosen, sample.negatives).mean(axis=0)
    amounts = _when_active(chosen, sample.positives)
    answers = _Behaviour(answering, [p for p in prompts if p.label], True)
    away, to = sample.negatives, sample.positives
    effects = [
        answers.under("untouched", None),
        answers.under("features at 0", at(chosen, zero)),
        answers.under("features at the negatives' mean", at(chosen, mean)),
        answers.under(f"{_NUM_RANDOM} random sets at 0", *(at(b, zero) for b in others)),
        answers.under("mean difference at the negatives' mean", at_mean(direction, away)),
        answers.under("random directions, likewise", *(at_mean(d, away) for d in directions)),
    ]
    answers = _Behaviour(answering, [p for p in prompts if not p.label], False)
    effects += [
        answers.under("untouched", None),
        answers.under("features added", added(chosen)),
        answers.under(f"{_NUM_RANDOM} random sets added", *map(added, others)),
        answers.under("mean difference at the positives' mean", at_mean(direction, to)),
        answers.under("random directions, likewise", *(at_mean(d, to) for d in directions)),
    ]
    return effects


class _Behaviour:
    """How the model answers some prompts."""

    def __init__(
        self, answering: Answering, prompts: Sequence[Prompt], are_positives: bool
    ) -> None:
        self._answering = answering
        self._prompts = prompts
        self._are_positives = are_positives
        self._groups = [prompt.group or prompt.id for prompt in prompts]
        self._untouched = answering.answers(prompts)
        self._responses = [
            text if prompt.response is None else prompt.response
            for prompt, text in zip(prompts, self._untouched, strict=True)
        ]
        self._surprise = np.array(answering.surprise(prompts, self._responses))

    def under(self, name: str, *interventions: Intervention | None) -> Effect:
        """One of several that do the same."""
        judged = [self._judge(intervention) for intervention in interventions]
        return Effect(
            name,
            self._are_positives,
            tuple(lies for lies, _, _ in judged if lies is not None),
            tuple(changed for _, changed, _ in judged),
            tuple(surprise for _, _, surprise in judged),
        )

    def _judge(self, intervention: Intervention | None) -> tuple[Rate | None, Rate, float]:
        answers = self._answering.answers(self._prompts, intervention)
        surprise = self._answering.surprise(self._prompts, self._responses, intervention)
        changed = np.array([a != b for a, b in zip(answers, self._untouched, strict=True)])
        told = [p.lie is not None for p in self._prompts]
        lies = None
        if any(told):
            are_lies = np.array(
                [_lies(a, p) for a, p, t in zip(answers, self._prompts, told, strict=True) if t]
            )
            groups = [group for group, t in zip(self._groups, told, strict=True) if t]
            lies = rates_of(are_lies[None], groups)[0]
        return (
            lies,
            rates_of(changed[None], self._groups)[0],
            float((np.array(surprise) - self._surprise).mean()),
        )


def _lies(answer: str, prompt: Prompt) -> bool:
    return _says(answer, prompt.lie) and not _says(answer, prompt.truth)


def _says(answer: str, text: str | None) -> bool:
    return bool(text) and re.search(rf"(?<!\w){re.escape(text or '')}(?!\w)", answer) is not None


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


def _unit(direction: npt.NDArray[np.float64]) -> Floats:
    return (direction / np.linalg.norm(direction)).astype(np.float32)
