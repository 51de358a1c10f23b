"""How a model answers prompts of one label, as it is and with something done to it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

from saeguard.integrations.discovery.effects import Effect
from saeguard.integrations.discovery.generation import Answering, Floats, Interventions
from saeguard.integrations.discovery.prompts import Prompt
from saeguard.integrations.discovery.splits import Folds, group_folds
from saeguard.monitor.errors import ConfigError
from saeguard.rules.calibration.intervals import Rate
from saeguard.rules.calibration.resampling import rates_of

NUM_FOLDS = 2

Way = Callable[[int], Interventions]
"""What is done to the prompts of a fold: what was learnt from prompts is learnt from the others."""


def split_prompts(prompts: Sequence[Prompt], seed: int) -> Folds:
    """Two halves with prompts of both labels each; groups are not parted.

    Raises:
        ConfigError: there are not two groups of each label.
    """
    labels = np.array([prompt.label for prompt in prompts])
    for label in (True, False):
        if len({_group(p) for p in prompts if p.label == label}) < NUM_FOLDS:
            raise ConfigError(
                f"the prompts with the label {str(label).lower()} are of one group",
                "give two groups of each: what is learnt from some prompts is tried on others",
            )
    return group_folds([_group(prompt) for prompt in prompts], NUM_FOLDS, seed, labels)


class Behaviour:
    """How the model answers those prompts that have one label."""

    def __init__(
        self, answering: Answering, prompts: Sequence[Prompt], folds: Folds, are_positives: bool
    ) -> None:
        """
        Args:
            folds: of all prompts, [prompts].
        """
        places = [i for i, prompt in enumerate(prompts) if prompt.label == are_positives]
        self.are_positives = are_positives
        self.folds = folds[places]
        self._answering = answering
        self._prompts = [prompts[i] for i in places]
        self._groups = [_group(prompt) for prompt in self._prompts]
        self._untouched = answering.answers(self._prompts)
        self._responses = [
            text if prompt.response is None else prompt.response
            for prompt, text in zip(self._prompts, self._untouched, strict=True)
        ]
        self._surprise = np.array(answering.surprise(self._prompts, self._responses))

    def means(self) -> Floats:
        """Of what leaves the layers as prompts are read and answered, [prompts, layers, inputs]."""
        return self._answering.means(self._prompts, self._responses)

    def under(self, name: str, *ways: Way) -> Effect:
        """One of several that do the same."""
        judged = [self._judge(way) for way in ways]
        return Effect(
            name,
            self.are_positives,
            tuple(lies for lies, _, _ in judged if lies is not None),
            tuple(changed for _, changed, _ in judged),
            tuple(surprise for _, _, surprise in judged),
        )

    def _judge(self, way: Way) -> tuple[Rate | None, Rate, float]:
        answers, surprise = self._answered(way)
        changed = np.array([a != b for a, b in zip(answers, self._untouched, strict=True)])
        told = [i for i, prompt in enumerate(self._prompts) if prompt.lie is not None]
        lies = None
        if told:
            are_lies = np.array([_lies(answers[i], self._prompts[i]) for i in told])
            lies = rates_of(are_lies[None], [self._groups[i] for i in told])[0]
        return (
            lies,
            rates_of(changed[None], self._groups)[0],
            float((surprise - self._surprise).mean()),
        )

    def _answered(self, way: Way) -> tuple[list[str], np.ndarray]:
        answers, surprise = [""] * len(self._prompts), np.zeros(len(self._prompts))
        for fold in np.unique(self.folds):
            places = np.flatnonzero(self.folds == fold)
            prompts, done = [self._prompts[i] for i in places], way(int(fold))
            responses = [self._responses[i] for i in places]
            surprise[places] = self._answering.surprise(prompts, responses, done)
            for i, answer in zip(places, self._answering.answers(prompts, done), strict=True):
                answers[i] = answer
        return answers, surprise


def _group(prompt: Prompt) -> str:
    return prompt.group or prompt.id


def _lies(answer: str, prompt: Prompt) -> bool:
    return _says(answer, prompt.lie) and not _says(answer, prompt.truth)


def _says(answer: str, text: str | None) -> bool:
    return bool(text) and re.search(rf"(?<!\w){re.escape(text or '')}(?!\w)", answer) is not None
