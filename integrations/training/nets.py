"""Probes that are small nets: a hidden layer on each token, or heads that look at a whole answer.

They are trained in PyTorch on standardised activations by Adam, from a seed, so that a second run
on a machine gives the same; what standardised the input is folded into the first layer afterwards.
The loss is the mean log loss + penalty / 2 * |weights|^2. What a head is taught by is its score at
the end of a phase run, of requests with several runs the largest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from saeguard.integrations.probes.file import Attention, Mlp, MultiMax, Probe
from saeguard.integrations.training.lesson import Lesson
from saeguard.integrations.training.material import Doubles
from saeguard.monitor.errors import UnsupportedError

_NUM_HIDDEN = 16
_NUM_HEADS = 4
_NUM_STEPS = 200
_LEARNING_RATE = 0.02

Weights = Mapping[str, Any]
"""Tensors by name; of them matrices are penalised."""


class Net(Protocol):
    """One kind of them."""

    whole: bool
    """Whether it looks at whole answers, or at tokens one by one."""

    def start(self, torch: Any, num_inputs: int, generator: Any) -> Weights:
        """What it begins with."""

    def logits(self, torch: Any, weights: Weights, x: Any, runs: Any) -> Any:
        """Of tokens x [tokens, inputs] one each, or one of each run [runs].

        Args:
            runs: which run each token is of, from 0 on, [tokens].
        """

    def probe(self, lesson: Lesson, weights: Mapping[str, Doubles]) -> Probe:
        """On raw activations."""


class MlpNet:
    """w · relu(W x + b) + c"""

    whole = False

    def start(self, torch: Any, num_inputs: int, generator: Any) -> Weights:
        normal = _normal(torch, generator)
        return {
            "hidden_weight": normal(_NUM_HIDDEN, num_inputs),
            "hidden_bias": torch.zeros(_NUM_HIDDEN),
            "weight": normal(1, _NUM_HIDDEN),
            "bias": torch.zeros(1),
        }

    def logits(self, torch: Any, weights: Weights, x: Any, runs: Any) -> Any:
        hidden = torch.relu(x @ weights["hidden_weight"].T + weights["hidden_bias"])
        return (hidden @ weights["weight"].T + weights["bias"])[:, 0]

    def probe(self, lesson: Lesson, weights: Mapping[str, Doubles]) -> Probe:
        raw, shift = lesson.on_raw(weights["hidden_weight"])
        folded = {"hidden_weight": raw, "hidden_bias": weights["hidden_bias"] + shift}
        return Probe(Mlp("relu"), dict(weights) | folded)


class AttentionNet:
    """Σ_h Σ_i softmax_i(q_h · x_i) v_h · x_i + c"""

    whole = True

    def start(self, torch: Any, num_inputs: int, generator: Any) -> Weights:
        normal = _normal(torch, generator)
        return {
            "query": normal(_NUM_HEADS, num_inputs),
            "value": normal(_NUM_HEADS, num_inputs),
            "bias": torch.zeros(1),
        }

    def logits(self, torch: Any, weights: Weights, x: Any, runs: Any) -> Any:
        logits, values = x @ weights["query"].T, x @ weights["value"].T
        largest = _largest(torch, logits.detach(), runs)
        parts = torch.exp(logits - largest[runs])
        empty = torch.zeros_like(largest)
        mean = empty.index_add(0, runs, parts * values) / empty.index_add(0, runs, parts)
        return mean.sum(1) + weights["bias"]

    def probe(self, lesson: Lesson, weights: Mapping[str, Doubles]) -> Probe:
        query, _ = lesson.on_raw(weights["query"])  # what is the same for all tokens cancels out
        value, shift = lesson.on_raw(weights["value"])
        bias = weights["bias"] + shift.sum()  # since the softmax of a head sums to 1
        return Probe(Attention(), {"query": query, "value": value, "bias": bias})


class MultiMaxNet:
    """Σ_h max_i v_h · x_i + c"""

    whole = True

    def start(self, torch: Any, num_inputs: int, generator: Any) -> Weights:
        value = _normal(torch, generator)(_NUM_HEADS, num_inputs)
        return {"value": value, "bias": torch.zeros(1)}

    def logits(self, torch: Any, weights: Weights, x: Any, runs: Any) -> Any:
        return _largest(torch, x @ weights["value"].T, runs).sum(1) + weights["bias"]

    def probe(self, lesson: Lesson, weights: Mapping[str, Doubles]) -> Probe:
        value, shift = lesson.on_raw(weights["value"])
        return Probe(MultiMax(), {"value": value, "bias": weights["bias"] + shift.sum()})


def fit_nets(lesson: Lesson, net: Net, penalties: Sequence[float], seed: int) -> list[Probe]:
    """One for each penalty, all from the same beginning.

    Args:
        lesson: of whole answers where the net looks at them.

    Raises:
        UnsupportedError: PyTorch is not installed.
    """
    torch = _torch()
    x = torch.from_numpy(lesson.x)
    runs, owners, targets, shares = map(torch.from_numpy, _taught(lesson, net.whole))
    probes = []
    for penalty in penalties:
        weights = net.start(torch, x.shape[1], torch.Generator().manual_seed(seed))
        for each in weights.values():
            each.requires_grad_()
        optimizer = torch.optim.Adam(weights.values(), lr=_LEARNING_RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _NUM_STEPS)
        for _ in range(_NUM_STEPS):
            optimizer.zero_grad()
            logits = net.logits(torch, weights, x, runs)
            if net.whole:
                logits = _largest(torch, logits[:, None], owners)[:, 0]
            losses = torch.nn.functional.softplus(-targets * logits)
            size = sum((each * each).sum() for each in weights.values() if each.ndim > 1)
            (shares @ losses + penalty / 2 * size).backward()
            optimizer.step()
            schedule.step()
        found = {name: each.detach().double().numpy() for name, each in weights.items()}
        probes.append(net.probe(lesson, found))
    return probes


def _taught(lesson: Lesson, whole: bool) -> tuple[npt.NDArray[Any], ...]:
    """The run of each token, the request of each run, and of each request, or of each token where
    these are looked at one by one, the target (-1 or 1) and the part that it has in the loss.
    """
    _, firsts, runs = np.unique(lesson.run, return_index=True, return_inverse=True)
    _, owners = np.unique(lesson.request[firsts], return_inverse=True)
    targets, shares = np.where(lesson.y, 1.0, -1.0), lesson.weight
    if whole:
        _, begins = np.unique(lesson.request, return_index=True)
        targets, shares = targets[begins], np.add.reduceat(shares, begins)
    return runs, owners, targets.astype(np.float32), shares.astype(np.float32)


def _largest(torch: Any, values: Any, index: Any) -> Any:
    """Of rows [rows, columns] with one index, [indices, columns]."""
    size = (int(index[-1]) + 1, values.shape[1])
    return torch.full(size, -torch.inf).scatter_reduce(
        0, index[:, None].expand(values.shape), values, "amax"
    )


def _normal(torch: Any, generator: Any) -> Callable[[int, int], Any]:
    """Draws a matrix whose products with standardised inputs have standard deviation 1."""
    return lambda rows, inputs: torch.randn(rows, inputs, generator=generator) / inputs**0.5


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise UnsupportedError(
            f"training nets needs PyTorch: {error}", "pip install 'saeguard[training]'"
        ) from error
    return torch
