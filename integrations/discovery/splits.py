"""Splits that keep what belongs together on one side.

Requests of one group are alike for a reason: one template, one author, one conversation. A feature
that knows the group then seems to know the label, as long as the same group is on both sides.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence

import numpy as np
import numpy.typing as npt

from saeguard.monitor.errors import ConfigError

Folds = npt.NDArray[np.intp]
"""[requests], from 0 on: the fold that each is in."""


def group_folds(
    groups: Sequence[Hashable],
    num_folds: int,
    seed: int = 0,
    labels: Sequence[bool] | None = None,
) -> Folds:
    """Which fold each request is in: every group in one only, and folds about equally large.

    Groups are taken in a random order, the largest first, each into the fold that has least so far.

    Args:
        groups: of each request; what counts as one thing (`Example.group`).
        seed: the same one gives the same folds, whatever order the requests are in.
        labels: of each request; then positives and negatives are each spread over the folds.

    Raises:
        ConfigError: there are fewer groups than folds.
    """
    members: dict[str, list[int]] = defaultdict(list)
    for i, group in enumerate(groups):
        members[str(group)].append(i)
    if len(members) < num_folds:
        raise ConfigError(
            f"{num_folds} folds need as many groups, and the labels have {len(members)}",
            "give requests that have nothing to do with each other a group of their own, or none",
        )
    kinds = np.zeros(len(groups), np.intp) if labels is None else np.asarray(labels, np.intp)
    totals = np.bincount(kinds, minlength=2)
    order = sorted(members)
    np.random.default_rng(seed).shuffle(order)
    order.sort(key=lambda group: -len(members[group]))
    folds = np.empty(len(groups), np.intp)
    counts = np.zeros((num_folds, 2))
    for group in order:
        share = np.bincount(kinds[members[group]], minlength=2) / np.maximum(totals, 1)
        # The fold in which the group makes the least of a crowd: each kind counts for what it has.
        crowd = ((counts + share) ** 2 - counts**2).sum(axis=1)
        fold = min(range(num_folds), key=lambda f: (crowd[f], counts[f].sum()))
        folds[members[group]] = fold
        counts[fold] += share
    return folds
