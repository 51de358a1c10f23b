"""Compares the scores of both sides: for each feature in each phase whether they have moved, how
far, and whether the data would have shown it.

What is tested is the largest difference of the shares above a score, each difference in units of
its own spread under exchanged requests, so that a sparse feature's rare high scores count as much
as the density of a frequent one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from saeguard.rules.calibration.statistics import Statistics
from saeguard.rules.drift.discoveries import q_values
from saeguard.rules.drift.resampling import Weights, bootstrapped, drawn_again, exchanged
from saeguard.rules.drift.results import Compared, Criteria, Drift, Side, Verdict
from saeguard.rules.drift.samples import Assigned, Sample, assign
from saeguard.rules.drift.sides import sides_of, stability_index
from saeguard.rules.drift.tables import Numbers, Table, tabulate
from saeguard.rules.phases import Phase

DEFAULTS = Criteria()
_MIN_DRAWS, _MAX_DRAWS = 999, 4999
_NUM_BOOTSTRAPS = 400
_MIN_UNITS = 10  # with a score so high, for their spread to be known from them
_POWER_Z = 0.84  # of finding what is as large as `detectable` four times in five


def compare(
    reference: Sample | Statistics,
    recent: Sample,
    thresholds: Mapping[str, Sequence[float]],
    criteria: Criteria = DEFAULTS,
) -> Compared:
    """
    Args:
        reference: requests, or what calibration has left of them; then strata are left alone.
        thresholds: of each feature that is compared.
    """
    known = None if isinstance(reference, Sample) else reference
    if isinstance(reference, Sample):
        assigned = assign(reference, recent)
    else:
        assigned = assign(None, replace(recent, strata=[""] * len(recent.requests)))
    tables, unobserved = _tables(assigned, thresholds, known)
    num_draws = min(max(_MIN_DRAWS, 40 * len(tables) - 1), _MAX_DRAWS)
    rng = np.random.default_rng(criteria.seed)
    shared = exchanged(assigned.units, num_draws, rng) if known is None else []
    again = bootstrapped(assigned.units, _NUM_BOOTSTRAPS, rng)
    drifts = []
    for (feature, phase), table in tables.items():
        draws = shared
        if not table.is_reference_known:
            num_groups = table.statistics[0].num_groups
            draws = drawn_again(assigned.units, num_groups, num_draws, rng)
        sides = sides_of(table, thresholds[feature], again)
        drifts.append(_drift(feature, phase, table, sides, draws, len(tables), criteria))
    return Compared(
        drifts=_judged(drifts, criteria),
        unobserved=unobserved,
        left_out=assigned.left_out,
        num_reference=assigned.units.num_on(False)
        if known is None
        else max((s.num_groups for phases in known.values() for s in phases.values()), default=0),
        num_recent=assigned.units.num_on(True),
        num_pairs=assigned.units.num_pairs,
    )


Tables = dict[tuple[str, Phase], Table]


def _tables(
    assigned: Assigned, thresholds: Mapping[str, Sequence[float]], known: Statistics | None
) -> tuple[Tables, tuple[tuple[str, Phase], ...]]:
    """Of every feature in each phase that both sides have seen; and where only one has."""
    tables: Tables = {}
    unobserved = []
    for feature in thresholds:
        for phase in Phase:
            statistics = None if known is None else known.get(feature, {}).get(phase)
            table = tabulate(assigned, feature, phase, thresholds[feature], statistics)
            is_seen = [
                bool(table.tokens[~assigned.units.is_recent].any())
                if known is None
                else statistics is not None,
                bool(table.tokens[assigned.units.is_recent].any()),
            ]
            if all(is_seen):
                tables[feature, phase] = table
            elif any(is_seen):
                unobserved.append((feature, phase))
    return tables, tuple(unobserved)


def _drift(
    feature: str,
    phase: Phase,
    table: Table,
    sides: tuple[Side, Side],
    draws: Sequence[Weights],
    num_tests: int,
    criteria: Criteria,
) -> Drift:
    strata = table.strata_weights
    before, after = table.observed_shares()
    change = after - before
    by_chance = np.concatenate(
        [
            table.shares(w_after, strata) - table.shares(w_before, strata)
            for w_before, w_after in draws
        ]
    )
    drawn_spread = np.sqrt(np.mean(by_chance**2, axis=0))
    spread = drawn_spread
    if not table.is_reference_known:
        spread = _pooled_spread(table, drawn_spread, before, after)
    largest = float(np.max(np.abs(change) / _or_infinite(spread)))
    largest_by_chance = np.max(np.abs(by_chance) / _or_infinite(drawn_spread), axis=1)
    p_value = (1 + np.sum(largest_by_chance >= largest * (1 - 1e-9))) / (1 + len(by_chance))
    if not table.is_reference_known:  # where no recent score is so high, the draws know no chance
        p_value = max(p_value, math.erfc(largest / math.sqrt(2)))
    activity = _activity(table, before, after)
    level = 1 - max(criteria.false_discovery_rate / num_tests, 2 / (1 + len(by_chance)))
    needed_z = float(np.quantile(largest_by_chance, level)) + _POWER_Z
    distance = float(np.max(np.abs(change)))
    detectable = needed_z * float(np.max(spread)) / activity if activity else math.inf
    # Two sides of so many tell as much as these two.
    num_alike = 2 / sum(1 / side.statistics.num_groups for side in sides)
    return Drift(
        feature=feature,
        phase=phase,
        reference=sides[0],
        recent=sides[1],
        distance=distance,
        moved=distance / activity if activity else 0.0,
        stability_index=stability_index(table),
        p_value=float(p_value),
        detectable=detectable,
        num_needed=math.ceil(num_alike * (detectable / criteria.detect) ** 2) if activity else 0,
    )


def _or_infinite(spread: Numbers) -> Numbers:
    """What nothing varies in is no difference."""
    return np.where(spread > 0, spread, np.inf)


def _pooled_spread(table: Table, drawn_spread: Numbers, before: Numbers, after: Numbers) -> Numbers:
    """Standard deviation of the change at each cut where all draws are from the recent side: more
    than theirs where by chance few recent scores are so high, and more of the reference are.

    It is that of independent tokens, of both sides together, times how much more the draws spread
    than independent tokens of the recent side would.
    """
    num_tokens = np.array([statistics.num_tokens for statistics in table.statistics])
    independent, of_recent = (
        np.sqrt(share * (1 - share) * np.sum(1 / num_tokens))
        for share in ((before + after) / 2, after)
    )
    is_known = ((table.above > 0).sum(axis=0) >= _MIN_UNITS) & (of_recent > 0)
    alike = math.sqrt(table.tokens.sum() / np.count_nonzero(table.tokens))
    if is_known.any():
        alike = float(np.median(drawn_spread[is_known] / of_recent[is_known]))
    return np.asarray(np.maximum(drawn_spread, alike * independent))


def _activity(table: Table, before: Numbers, after: Numbers) -> float:
    """Share of the tokens on which the feature is not 0; all of one that can be below it."""
    if table.cuts[0] < 1:
        return 1.0
    return float(max(before[0], after[0]))


def _judged(drifts: Sequence[Drift], criteria: Criteria) -> tuple[Drift, ...]:
    """With q-values over all that could have moved."""
    tested = [drift for drift in drifts if math.isfinite(drift.detectable)]
    found = dict(zip(map(id, tested), q_values([d.p_value for d in tested]), strict=True))
    return tuple(
        replace(
            drift,
            q_value=float(found.get(id(drift), 1.0)),
            verdict=_verdict(drift, found.get(id(drift)), criteria),
        )
        for drift in drifts
    )


def _verdict(drift: Drift, q_value: float | None, criteria: Criteria) -> Verdict:
    if q_value is None:
        return "silent"
    if q_value <= criteria.false_discovery_rate:
        return "moved" if drift.moved >= criteria.material else "small"
    return "too_little" if drift.detectable > criteria.detect else "none"
