"""Brings live requests under other rules: what is kept of them is played to the new engine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from saeguard.monitor.columns import Order, arranged
from saeguard.monitor.requests import LiveRequest
from saeguard.rules import Engine, Rule, RuleSet
from saeguard.rules.model import Aggregate, StepSequence

_ROWS_AT_ONCE = 65_536
"""Enough for the engine to take many requests together, few enough to be held twice."""


_HALF_LIVES = 24
"""After so many, what an average had before is below the precision of a float32."""


def lookback(ruleset: RuleSet) -> int:
    """How many tokens bring the state of these rules to what it would be after all of them."""
    return max(map(_lookback, ruleset.rules))


def carry_over(
    requests: Iterable[LiveRequest], engine: Engine, num_rows: int, order: Order | None
) -> None:
    """Start requests in an engine as if it had seen the rows that are kept of them.

    What matches on those rows is no news. Afterwards each rule counts as having matched as often
    as the rule of the same id did before, under the rules until now.

    Args:
        requests: those that the engine until now has room for.
        engine: one that knows none of them.
        num_rows: at most so many of each.
        order: where each of its columns is in the kept rows; None: in the same place.
    """
    for group in _groups(requests, num_rows):
        kept = [request.table.kept(request.slot, num_rows) for request in group]
        keys = [request.start.req_id for request in group]
        for request in group:
            engine.start(request.start.req_id, request.context)
        scores = np.concatenate([rows.scores for rows, _ in kept])
        engine.observe(
            keys,
            np.cumsum([0, *(len(rows.positions) for rows, _ in kept)]),
            scores if order is None else arranged(scores, order),
            np.concatenate([rows.positions for rows, _ in kept]),
            np.concatenate([phases for _, phases in kept]),
        )
        for request in group:
            engine.resume(request.start.req_id, request.decisions.matches_by_id())


def _groups(requests: Iterable[LiveRequest], num_rows: int) -> Iterator[list[LiveRequest]]:
    """Requests whose rows are together not too many."""
    group: list[LiveRequest] = []
    for request in requests:
        group.append(request)
        if len(group) * min(num_rows, request.table.num_kept) >= _ROWS_AT_ONCE:
            yield group
            group = []
    if group:
        yield group


def _lookback(rule: Rule) -> int:
    window = max((_reach(signal.aggregate) for signal in rule.signals), default=0)
    if isinstance(rule.detection, StepSequence):
        return window + rule.detection.within
    return window + rule.for_tokens + rule.keep_firing_for


def _reach(aggregate: Aggregate) -> int:
    if aggregate.kind == "ema":
        return _HALF_LIVES * aggregate.tokens
    return aggregate.tokens + aggregate.rolling
