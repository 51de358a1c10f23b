"""What is drawn below a threshold stands for what it was drawn from."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from calibration_data import examples, load

from saeguard.rules.calibration.sampling import BAND, draw_below
from saeguard.rules.calibration.sweep import sweep


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    ruleset, known = load(tmp_path_factory.mktemp("rules")), examples(600)
    return sweep(ruleset, ruleset.rules[0], ruleset.rules[0].signals[0], known), known


def peak(example) -> float:
    return float(example.request.scores[4:, 0].max())


def test_the_nearest_below_are_drawn_from_and_each_source_has_its_share(swept):
    found, known = swept
    sources = ["rare" if i % 50 == 1 else f"s{i % 3}" for i in range(600)]
    draw = draw_below(found, sources, 10)
    assert len(draw.drawn) == 10
    assert draw.num_in_band == 10 * BAND
    assert draw.num_below == sum(peak(example) < 3 for example in known)
    nearest = sorted((peak(e) for e in known if peak(e) < 3), reverse=True)[: 10 * BAND + 3]
    for drawn in draw.drawn:
        assert nearest[-1] <= peak(known[drawn.index]) < 3
        assert drawn.value == pytest.approx(peak(known[drawn.index]), rel=0.05)
    assert sum(drawn.weight for drawn in draw.drawn) == pytest.approx(10 * BAND)
    assert set(Counter(sources[drawn.index] for drawn in draw.drawn)) == {"rare", "s0", "s1", "s2"}
    values = [drawn.value for drawn in draw.drawn]
    assert values == sorted(values, reverse=True)


def test_the_same_seed_draws_the_same_and_another_seed_others(swept):
    found, known = swept
    sources = ["a"] * len(known)
    assert draw_below(found, sources, 10, 1) == draw_below(found, sources, 10, 1)
    assert draw_below(found, sources, 10, 1) != draw_below(found, sources, 10, 2)


def test_weights_estimate_how_many_positives_lie_in_the_band_without_bias(swept):
    found, known = swept
    sources = ["rare" if e.answers and i % 4 == 0 else "often" for i, e in enumerate(known)]
    everything = draw_below(found, sources, 10_000)
    assert {drawn.weight for drawn in everything.drawn} == {1.0}
    nearest = [drawn.index for drawn in everything.drawn][: 20 * BAND]
    truth = sum(known[i].answers for i in nearest)
    estimates = [
        sum(d.weight for d in draw_below(found, sources, 20, seed).drawn if known[d.index].answers)
        for seed in range(300)
    ]
    assert 5 < truth < 100
    assert np.mean(estimates) == pytest.approx(truth, abs=4 * np.std(estimates) / 300**0.5)


@pytest.mark.parametrize("number", [1, 2, 3, 7, 59])
def test_as_many_are_drawn_as_are_wanted_however_many_sources_there_are(swept, number):
    found, known = swept
    for num_sources in (1, 2, 5, 600):
        sources = [f"{i**2 % num_sources}" for i in range(len(known))]
        draw = draw_below(found, sources, number)
        assert len({drawn.index for drawn in draw.drawn}) == number
        assert sum(drawn.weight for drawn in draw.drawn) == pytest.approx(draw.num_in_band)
