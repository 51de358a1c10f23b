"""Splits that keep what belongs together on one side.

Requests of one group are alike for a reason: one template, one author, one conversation. A feature
that knows the group then seems to know the label, as long as the same group is on both sides.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from saeguard.monitor.errors import ConfigError

Which = npt.NDArray[np.bool_]
"""[requests]"""
Folds = npt.NDArray[np.intp]
"""[requests], from 0 on: the fold that each is in."""


@dataclass(frozen=True, slots=True)
class Split:
    """Where features are chosen, and where they are judged, [requests] each."""

    name: str
    train: Which
    test: Which


def make_splits(
    groups: Sequence[str],
    labels: Which,
    named: Sequence[str],
    train: str = "fit",
    num_folds: int = 5,
    seed: int = 0,
) -> list[Split]:
    """Those that the labels name; else each fold once as the one to judge on.

    Args:
        groups: of each request: what must not be on both sides.
        named: the labels' splits; empty where they have none.
        train: the name of the one to choose on.

    Raises:
        ConfigError: there is nothing to choose or to judge on, or not enough groups.
    """
    names = np.array(named)
    if not any(named):
        folds = group_folds(groups, num_folds, seed, labels)
        splits = [Split(f"fold {f + 1}", folds != f, folds == f) for f in range(num_folds)]
    elif train in named:
        splits = [Split(train, names == train, (names != train) & (names != ""))]
    else:
        raise ConfigError(
            f"no label is of the split {train!r} to choose features on; "
            f"there are {', '.join(sorted(set(named) - {''}))}",
            "name it: --train NAME",
        )
    for split in splits:
        for what, side in (("choose", split.train), ("judge", split.test)):
            num_positives, num = int(labels[side].sum()), int(side.sum())
            if not 0 < num_positives < num:
                raise ConfigError(
                    f"{split.name}: to {what} features on there are {num_positives} positives and "
                    f"{num - num_positives} negatives; it takes both",
                    "label more requests, or give fewer --folds",
                )
    return splits


def linked(groups: Sequence[str], sources: Sequence[str]) -> list[str]:
    """Of each request a name that all have in common which share a group or a source, also by way
    of others.
    """
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            name = parent[name]
        return name

    keys = [
        (f"group {g}", f"source {s}" if s else "") for g, s in zip(groups, sources, strict=True)
    ]
    for group, source in keys:
        if source:
            parent[root(group)] = root(source)
    return [root(group) for group, _ in keys]


def group_folds(
    groups: Sequence[Hashable],
    num_folds: int,
    seed: int = 0,
    labels: Sequence[bool] | Which | None = None,
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
