"""The probes that compete: every hook point with every penalty and every aggregate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from saeguard.integrations.training.aggregates import CHOICES, Aggregate
from saeguard.integrations.training.fitted import Fitted
from saeguard.integrations.training.lesson import Lesson
from saeguard.integrations.training.linear import fit_logistic, fit_mean_difference
from saeguard.integrations.training.material import Doubles, Flags, Material
from saeguard.integrations.training.nets import AttentionNet, MlpNet, MultiMaxNet, Net, fit_nets
from saeguard.monitor.sites import HookPoint

Kind = Literal["linear", "mean-difference", "mlp", "attention", "multimax"]

PENALTIES: Mapping[Kind, tuple[float, ...]] = {
    "linear": (1.0, 0.1, 0.01, 0.001, 0.0001),
    "mean-difference": (0.0,),
    "mlp": (0.01, 0.001),
    "attention": (0.01, 0.001),
    "multimax": (0.01, 0.001),
}
"""To choose among, the strictest first."""

_NETS: Mapping[Kind, Net] = {
    "mlp": MlpNet(),
    "attention": AttentionNet(),
    "multimax": MultiMaxNet(),
}


@dataclass(frozen=True, slots=True)
class Candidate:
    """What the inner loop chooses."""

    hook_point: HookPoint
    penalty: float
    aggregate: Aggregate

    def __str__(self) -> str:
        penalty = f", penalty {self.penalty:g}" if self.penalty else ""
        return f"{self.hook_point}{penalty}, {self.aggregate}"


class Probes:
    """All candidates of one kind. Aggregates cost next to nothing: they share their fits."""

    def __init__(self, material: Material, kind: Kind, seed: int = 0) -> None:
        """
        Args:
            seed: of what nets begin with.
        """
        self._material = material
        self._kind = kind
        self._seed = seed
        self._net = _NETS.get(kind)
        is_whole = self._net is not None and self._net.whole
        self._aggregates = CHOICES[:1] if is_whole else CHOICES  # heads have their own
        self.candidates = [
            Candidate(hook_point, penalty, aggregate)
            for hook_point in material.activations
            for penalty in PENALTIES[kind]
            for aggregate in self._aggregates
        ]

    def at(self, hook_point: HookPoint) -> list[int]:
        """Which candidates are read there."""
        return [i for i, each in enumerate(self.candidates) if each.hook_point == hook_point]

    def scores(self, train: Flags) -> Doubles:
        """Fit them to some requests [requests]; all requests' scores [candidates, requests]."""
        tokens, found = self._material.tokens, []
        for hook_point, x in self._material.activations.items():
            for fitted in self._fit(hook_point, PENALTIES[self._kind], train):
                of_tokens = fitted.scores(x, tokens)
                found += [each.of_requests(of_tokens, tokens) for each in self._aggregates]
        return np.array(found)

    def fit(self, candidate: Candidate) -> Fitted:
        """To all requests."""
        everything = np.ones(len(self._material.labels), np.bool_)
        penalties = [p for p in PENALTIES[self._kind] if p >= candidate.penalty]
        return self._fit(candidate.hook_point, penalties, everything)[-1]

    def _fit(self, hook_point: HookPoint, penalties: Sequence[float], train: Flags) -> list[Fitted]:
        whole = self._net is not None and self._net.whole
        lesson = Lesson.of(self._material, hook_point, train, whole)
        if self._net is not None:
            probes = fit_nets(lesson, self._net, penalties, self._seed)
        elif self._kind == "linear":
            probes = fit_logistic(lesson, penalties)
        else:
            probes = [fit_mean_difference(lesson)]
        return [Fitted(hook_point, probe) for probe in probes]
