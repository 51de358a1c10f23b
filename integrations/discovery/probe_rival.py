"""A linear probe as a rival of features: trained as `saeguard train-probe` trains one, on the
training side of each split.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from saeguard.integrations.discovery.corpus import Corpus
from saeguard.integrations.discovery.splits import Split, group_folds
from saeguard.integrations.training.candidates import Probes
from saeguard.integrations.training.material import Doubles, Flags, Material, Tokens
from saeguard.integrations.training.metrics import auroc_within

_NUM_FOLDS = 3
"""Of the training side's groups, to choose a place, a penalty and an aggregate on."""


def linear_probes(corpus: Corpus, splits: Sequence[Split], seed: int) -> list[Doubles]:
    """For each split the scores of all requests, [requests].

    Raises:
        ConfigError: a recording cannot be read, or the training side has too few groups.
        UnsupportedError: scikit-learn is not installed.
    """
    material, kept = _material(corpus)
    probes = Probes(material, "linear", seed)
    found = []
    for split in splits:
        scores = np.zeros(len(corpus))
        scores[kept] = _fitted(probes, material, split.train[kept], seed)
        found.append(scores)
    return found


def _fitted(probes: Probes, material: Material, train: Flags, seed: int) -> Doubles:
    """By the probe that does best on groups of the training side that it was fitted without."""
    places = np.flatnonzero(train)
    labels = material.labels[places]
    folds = group_folds([material.groups[i] for i in places], _NUM_FOLDS, seed, labels)
    inner = np.empty((len(probes.candidates), len(places)))
    for fold in range(_NUM_FOLDS):
        part, rest = train.copy(), places[folds == fold]
        part[rest] = False
        inner[:, folds == fold] = probes.scores(part)[:, rest]
    best = int(np.argmax([auroc_within(scores, labels, folds) for scores in inner]))
    found: Doubles = probes.scores(train)[best]
    return found


def _material(corpus: Corpus) -> tuple[Material, npt.NDArray[np.intp]]:
    """The requests that have tokens, with their activations in memory; and which they are."""
    rows = {at: {i: x for i, _, x in corpus.tokens(at) if len(x)} for at in corpus.hook_points}
    kept = np.array(sorted(set.intersection(*(set(of_place) for of_place in rows.values()))))
    lengths = [len(next(iter(rows.values()))[i]) for i in kept]
    request = np.repeat(np.arange(len(kept)), lengths)
    every = np.ones(len(request), np.bool_)
    return (
        Material(
            ids=tuple(corpus.ids[i] for i in kept),
            labels=corpus.labels[kept],
            groups=tuple(corpus.groups[i] for i in kept),
            sources=tuple(corpus.sources[i] for i in kept),
            tokens=Tokens(request, request, every, every),
            activations={at: np.concatenate([of[i] for i in kept]) for at, of in rows.items()},
            num_unobserved=0,
            num_empty=len(corpus) - len(kept),
            num_unjudged=0,
        ),
        kept,
    )
