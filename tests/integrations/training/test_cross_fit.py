"""Nothing is measured on what was learnt or chosen from."""

from __future__ import annotations

from itertools import pairwise

import activation_data
import numpy as np
import pytest

from saeguard.integrations.discovery.splits import group_folds
from saeguard.integrations.training.aggregates import CHOICES
from saeguard.integrations.training.candidates import Probes
from saeguard.integrations.training.cross_fit import Fit, cross_fit, num_fits
from saeguard.integrations.training.fitted import Fitted
from saeguard.integrations.training.lesson import Lesson
from saeguard.integrations.training.linear import fit_logistic
from saeguard.integrations.training.material import Material, gather
from saeguard.monitor.sites import HookPoint
from saeguard.rules.calibration.ranking import auroc
from saeguard.rules.phases import Phase

NUM_FOLDS = 4


def material(**made: object) -> Material:
    found = activation_data.examples(120, **made)
    return gather(found, "lies", [], [Phase.ANSWER])


def everything(probes: Probes) -> range:
    return range(len(probes.candidates))


def test_no_score_is_of_a_fit_that_has_seen_the_request_or_a_group_mate():
    data = material()
    groups = np.array(data.groups)
    folds = group_folds(data.groups, NUM_FOLDS, 0, data.labels)

    def confess(train: np.ndarray) -> np.ndarray:
        """Scores 1 where the fit knows the group, and 0 elsewhere."""
        return np.isin(groups, groups[train])[None].astype(float)

    found = cross_fit(confess, data.labels, folds)
    assert (found.outer == 0).all()
    for fold in range(NUM_FOLDS):
        assert np.isnan(found.inner[0, fold, folds == fold]).all()
        assert (found.inner[0, fold, folds != fold] == 0).all()


def test_the_inner_loop_of_a_fold_has_not_seen_the_fold():
    data = material()
    folds = group_folds(data.groups, NUM_FOLDS, 0, data.labels)

    def name_held_out(train: np.ndarray) -> np.ndarray:
        """Scores tell which folds were held out, as bits."""
        out = sum(1 << fold for fold in range(NUM_FOLDS) if not train[folds == fold].any())
        return np.full((1, len(folds)), float(out))

    inner = cross_fit(name_held_out, data.labels, folds).inner[0]
    for fold in range(NUM_FOLDS):
        rest = folds != fold
        assert (inner[fold, rest] == (1 << fold) + 2.0 ** folds[rest]).all()


def test_every_fit_is_counted_before_it_is_made():
    data = material()
    folds = group_folds(data.groups, NUM_FOLDS, 0, data.labels)
    calls: list[None] = []
    cross_fit(
        lambda train: np.zeros((1, len(train))), data.labels, folds, lambda: calls.append(None)
    )
    assert len(calls) == num_fits(NUM_FOLDS)


def test_labels_that_mean_nothing_are_not_found_where_groups_are_kept_apart():
    """And seem to be, where requests of one group are on both sides: each group has a direction."""
    honest, leaking = [], []
    for seed in range(4):
        made = activation_data.examples(96, seed, strength=0.0, num_groups=24, per_group=2.0)
        data = gather(made, "lies", [HookPoint.parse(activation_data.LATE)], [Phase.ANSWER])
        for groups, found in ((data.groups, honest), (data.ids, leaking)):
            folds = group_folds(groups, 3, seed, data.labels)
            nested = cross_fit(one_penalty(data), data.labels, folds).nested([0])
            found.append(auroc(nested.scores, data.labels))
    assert 0.3 < np.mean(honest) < 0.6
    assert np.mean(leaking) > 0.8


def one_penalty(data: Material) -> Fit:
    """Logistic regression and the largest score: one candidate, which is quick to fit."""
    (hook_point,) = data.activations

    def scores(train: np.ndarray) -> np.ndarray:
        (probe,) = fit_logistic(Lesson.of(data, hook_point, train), [0.1])
        of_tokens = Fitted(hook_point, probe).scores(data.at(hook_point), data.tokens)
        return CHOICES[0].of_requests(of_tokens, data.tokens)[None]

    return scores


def test_the_choice_among_many_does_not_flatter_the_estimate():
    """Of 300 candidates that guess, the best seems good on the requests it was chosen on."""
    rng = np.random.default_rng(0)
    labels = np.arange(100) % 2 == 0
    folds = np.arange(100) // 2 % NUM_FOLDS
    guesses = rng.normal(size=(300, 100))
    found = cross_fit(lambda train: guesses, labels, folds)
    chosen = found.choose(range(300))
    assert auroc(found.outer[chosen], labels) > 0.62
    assert 0.35 < auroc(found.nested(range(300)).scores, labels) < 0.6


def test_the_layer_that_knows_is_chosen_in_every_fold():
    data = material()
    probes = Probes(data, "linear")
    folds = group_folds(data.groups, NUM_FOLDS, 0, data.labels)
    found = cross_fit(probes.scores, data.labels, folds)
    nested = found.nested(everything(probes))
    assert {str(probes.candidates[i].hook_point) for i in nested.chosen} == {activation_data.LATE}
    assert auroc(nested.scores, data.labels) > 0.9
    early = found.nested(probes.at(next(iter(data.activations))))
    assert auroc(early.scores, data.labels) < 0.7


def test_folds_that_chose_candidates_of_different_scales_can_be_compared():
    """In the first fold the two are told apart by nothing, and the first of them is chosen."""
    rng = np.random.default_rng(1)
    labels = np.arange(400) % 2 == 0
    folds = np.arange(400) // 2 % NUM_FOLDS
    small = rng.normal(size=400) + 2.0 * labels
    large = 1000 + 50 * small
    small = np.where(folds == 0, small - 0.2 * labels, small)
    nested = cross_fit(lambda train: np.array([small, large]), labels, folds).nested([0, 1])
    assert nested.chosen == (0, 1, 1, 1)
    assert auroc(np.where(folds == 0, small, large), labels) < 0.8  # as they are they cannot be
    assert auroc(nested.scores, labels) == pytest.approx(auroc(large, labels), abs=0.02)


def test_stricter_penalties_give_smaller_weights():
    data = material()
    probes = Probes(data, "linear")
    of_one = [c for c in probes.candidates if c.aggregate == probes.candidates[0].aggregate]
    at_late = [c for c in of_one if str(c.hook_point) == activation_data.LATE]
    sizes = [np.linalg.norm(probes.fit(c).probe.tensors["weight"]) for c in at_late]
    assert all(one < other for one, other in pairwise(sizes))
