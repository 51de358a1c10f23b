"""A probe as it will be saved, and its scores as a server will give them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from saeguard.integrations.probes.file import Probe
from saeguard.integrations.probes.rows import feature_row
from saeguard.integrations.training.material import Doubles, Floats, Tokens
from saeguard.monitor.heads import Head
from saeguard.monitor.pooling import empty_state, pool
from saeguard.monitor.sites import HookPoint

_AT_ONCE = 2**16
"""Tokens of phase runs that are pooled together, those counted that fill up the shorter ones."""


@dataclass(frozen=True, eq=False)
class Fitted:
    """A probe and where it is read."""

    hook_point: HookPoint
    probe: Probe

    def scores(self, x: Floats, tokens: Tokens) -> Doubles:
        """Of each token, from the tokens of its run up to it; NaN where there is none.

        Args:
            x: what is read there, [tokens, inputs].
        """
        weight, bias, head = self._rows
        rows = x @ weight.T + bias
        if head is None:
            return rows[:, 0].astype(np.float64)
        if not head.num_pooled:
            return head.token_scores(rows)
        return _pooled(head, head.outputs(rows), tokens)

    @cached_property
    def _rows(self) -> tuple[Floats, Floats, Head | None]:
        whole = feature_row(self.probe, self.hook_point)
        rows = whole.rows or (whole,)
        weight = np.array([row.weight for row in rows], np.float32)
        return weight, np.array([row.bias for row in rows], np.float32), whole.head


def _pooled(head: Head, outputs: Doubles, tokens: Tokens) -> Doubles:
    scores = np.empty(len(outputs))
    for places in _blocks(tokens):
        block = np.where(places[..., None] < 0, np.nan, outputs[places])
        num_tokens = np.arange(1, places.shape[1] + 1)[None]
        with np.errstate(divide="ignore", invalid="ignore"):
            found, _ = pool(head, np.tile(empty_state(head), (len(block), 1)), block, num_tokens)
        scores[places[places >= 0]] = found[places >= 0]
    return scores


def _blocks(tokens: Tokens) -> Iterator[npt.NDArray[np.intp]]:
    """Runs of about the same length: the places of their tokens [runs, tokens], then -1."""
    starts, lengths = np.unique(tokens.run_starts, return_counts=True)
    order = np.argsort(-lengths, kind="stable")
    while order.size:
        longest = lengths[order[0]]
        now, order = np.split(order, [max(1, _AT_ONCE // longest)])
        steps = np.arange(longest)
        yield np.where(steps < lengths[now, None], starts[now, None] + steps, -1)
