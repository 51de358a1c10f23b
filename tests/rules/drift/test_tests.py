"""The distance and the correction for many tests are those of their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from drifting import requests

from saeguard.rules.drift.discoveries import q_values
from saeguard.rules.drift.resampling import exchanged
from saeguard.rules.drift.samples import Sample, assign
from saeguard.rules.drift.tables import tabulate
from saeguard.rules.phases import Phase

stats = pytest.importorskip("scipy.stats")


def test_q_values_are_those_of_benjamini_and_hochberg():
    p = np.random.default_rng(0).random(40) ** 3
    assert q_values(p) == pytest.approx(stats.false_discovery_control(p))
    assert q_values([]).shape == (0,)


@pytest.mark.parametrize("feature", ["lie", "probe"])
def test_the_distance_is_that_of_kolmogorov_and_smirnov(feature: str):
    old, new = requests(80, 1), requests(80, 2, density=0.3, shift=1.0)
    table = tabulate(assign(Sample.plain(old), Sample.plain(new)), feature, Phase.ANSWER)
    before, after = table.observed_shares()
    column = old[0].columns.index(feature)
    tokens = [np.concatenate([r.scores[:, column] for r in side]) for side in (old, new)]
    wanted = stats.ks_2samp(*tokens).statistic
    found = np.max(np.abs(after - before))
    assert wanted - 0.03 < found <= wanted + 1e-9


def test_requests_on_both_sides_change_places_and_the_others_are_dealt_out_within_their_stratum():
    old, new = requests(4, 1), [*requests(2, 1), *requests(3, 2)]
    strata = ["a", "a", "b", "b"], ["a", "a", "b", "b", "b"]
    sides = [
        Sample(side, [r.context.id for r in side], of)
        for side, of in zip((old, new), strata, strict=True)
    ]
    units = assign(*sides).units
    assert units.num_pairs == 2
    for before, after in exchanged(units, 200, np.random.default_rng(0)):
        assert (before != after).all()
        paired = units.partner >= 0
        assert (after[:, paired] != after[:, units.partner[paired]]).all()
        for stratum in (0, 1):
            of_stratum = units.stratum == stratum
            wanted = (units.is_recent & of_stratum).sum()
            assert (after[:, of_stratum].sum(axis=1) == wanted).all()
        assert len(np.unique(after, axis=0)) > 30
