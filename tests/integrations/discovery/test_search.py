"""What discovery finds, and what it must not."""

from __future__ import annotations

import numpy as np
import pytest
from planted import PLACE, Planted, write_sae
from saes import write_rules

from saeguard.integrations.discovery.corpus import Corpus
from saeguard.integrations.discovery.evidence import Texts, evidence
from saeguard.integrations.discovery.feature_sets import FeatureSet
from saeguard.integrations.discovery.sae_features import Block, Sae
from saeguard.integrations.discovery.search import Discovery, NothingFound, Settings, discover
from saeguard.integrations.discovery.splits import linked
from saeguard.integrations.training.fitted import Fitted
from saeguard.integrations.training.material import Tokens
from saeguard.monitor.compile import compile_watchlist
from saeguard.monitor.errors import ConfigError
from saeguard.monitor.watchlist import encode
from saeguard.rules import load_rules
from saeguard.rules.calibration.ranking import auroc


def searched(planted: Planted, **settings) -> tuple[Corpus, Discovery]:
    shards, data = planted.write()
    path = planted.directory / "sae"
    sae = Sae(path if path.exists() else write_sae(path, np.eye(planted.d_model)))
    corpus = Corpus.read(shards, data)
    return corpus, discover(corpus, sae, Settings(**settings))


def held_out(found: Discovery) -> dict[str, float]:
    return {judged.name.split(",")[0]: judged.held_out.auroc.value for judged in found.judged}


def test_a_feature_that_tells_the_label_is_found_and_one_that_tells_the_length_is_not(tmp_path):
    planted = Planted(tmp_path)
    for i in range(240):
        label = i % 3 == 0
        num_tokens = int(planted.rng.integers(20, 40) if label else planted.rng.integers(5, 30))
        # Feature 1 fires once in twenty tokens whatever the label: longer answers have more of it.
        rare = np.where(planted.rng.random(num_tokens) < 0.05, 3 + planted.rng.random(), -1.0)
        told = planted.rng.normal(1.5 if label else 0.0, 1.0)
        planted.add(label, {0: [told], 1: list(rare)}, num_tokens, group=f"g{i // 4}")
    corpus, found = searched(planted)
    assert [candidate.feature for candidate in found.ranked] == [0]
    assert found.num_found == 1
    assert np.corrcoef(corpus.num_tokens, corpus.labels)[0, 1] > 0.5


def test_what_only_tells_the_source_is_not_taken_for_the_label(tmp_path):
    planted = Planted(tmp_path)
    for i in range(300):
        source = "ab"[i % 2]
        label = bool(planted.rng.random() < (0.7 if source == "a" else 0.2))
        told = planted.rng.normal(1.5 if label else 0.0, 1.0)
        topic = 4.0 if source == "a" else -1.0
        planted.add(label, {0: [told], 1: [topic]}, source=source, group=f"g{i // 3}")
    _, found = searched(planted)
    assert [candidate.feature for candidate in found.ranked] == [0]
    assert found.is_source_controlled


def group_markers(directory, named: bool) -> Planted:
    """Labels drawn for whole groups, of which each has levels of its own in every feature: no
    feature knows of the label.
    """
    planted = Planted(directory, d_model=150, seed=5)
    levels = planted.rng.normal(2.0, 1.5, (20, planted.d_model))
    labels = planted.rng.permutation(20) < 8
    for i in range(400):
        group = i % 20
        noise = planted.rng.normal(0.0, 0.2, planted.d_model)
        scores = {j: [levels[group, j] + noise[j]] for j in range(planted.d_model)}
        about = {"group": f"g{group}"} if named else {}
        planted.add(bool(labels[group]), scores, num_tokens=3, **about)
    return planted


def test_a_split_that_parts_groups_reports_a_leak_as_skill_and_ours_reports_chance(tmp_path):
    (tmp_path / "leaking").mkdir()
    (tmp_path / "ours").mkdir()
    # Without their groups the requests of one group are on both sides.
    _, leaking = searched(group_markers(tmp_path / "leaking", named=False), max_q=1.0)
    _, ours = searched(group_markers(tmp_path / "ours", named=True), max_q=1.0)
    assert held_out(leaking)["best feature"] > 0.8
    assert held_out(leaking)["weighted set of up to 4"] > 0.85
    assert held_out(leaking)["mean difference"] > 0.95
    assert max(held_out(ours).values()) < 0.65
    assert leaking.num_found > 20
    assert all(candidate.q > 0.05 for candidate in ours.ranked)


def test_what_is_chance_is_not_written_down_as_found(tmp_path):
    with pytest.raises(NothingFound, match=r"false-discovery rate of 0\.05: the best is feature"):
        searched(group_markers(tmp_path, named=True))


def test_features_that_each_know_a_part_of_the_harm_are_joined(tmp_path):
    planted = Planted(tmp_path)
    for i in range(300):
        label, kind = i % 3 == 0, (i // 3) % 2
        planted.add(label, {kind: [0.0, 4.0]} if label else {}, group=f"g{i // 6}")
    _, found = searched(planted)
    assert sorted(found.features.features) == [0, 1]
    assert held_out(found)["weighted set of up to 4"] > 0.95 > 0.9 > held_out(found)["best feature"]
    assert [chosen.num_splits for chosen in found.chosen] == [5, 5]
    assert min(chosen.weight for chosen in found.chosen) > 0


def test_a_feature_that_is_higher_on_negatives_gets_a_negative_weight(tmp_path):
    planted = Planted(tmp_path)
    for i in range(300):
        label, excused = i % 3 == 0, i % 3 == 1
        # Feature 0 fires on lies and on excused falsehoods; feature 1 knows the excuse.
        both = {0: [0.0, 4.0], 1: [0.0, 4.0]} if excused else {}
        planted.add(label, {0: [0.0, 4.0]} if label else both, group=f"g{i // 6}")
    _, found = searched(planted)
    weights = dict(zip(found.features.features, found.features.weights, strict=True))
    assert weights.keys() == {0, 1}
    assert weights[1] < 0 < weights[0]
    assert held_out(found)["weighted set of up to 4"] > 0.95 > held_out(found)["best feature"]
    of_set = next(judged for judged in found.judged if judged.name == found.set_name)
    assert of_set.gain.low > 0


def test_where_few_are_positive_a_feature_that_ranks_all_is_better_than_one_that_is_surely_0(
    tmp_path,
):
    planted = Planted(tmp_path)
    for i in range(400):
        label = i % 20 == 0
        # Feature 0 ranks nearly all positives above nearly all others; feature 1 is silent on half
        # of the positives and on all others, which correlates more with a rare label.
        scores = {0: [planted.rng.normal(6.0 if label else 3.0, 0.9)], 1: [-1.0]}
        if label and i % 40 == 0:
            scores[1] = [5.0]
        planted.add(label, scores, group=f"g{i}")
    corpus, found = searched(planted, max_features=1)
    by_feature = {candidate.feature: candidate for candidate in found.ranked}
    assert by_feature[1].contrast > by_feature[0].contrast
    assert found.features.features == (0,)
    values = np.array([x[:, 0].max() for _, _, x in corpus.tokens(corpus.hook_points[0])])
    plain = auroc(values[found.splits[0].train], corpus.labels[found.splits[0].train])
    assert by_feature[0].auroc == pytest.approx(plain, abs=0.02)


def test_a_server_reads_of_a_set_what_was_judged():
    rng = np.random.default_rng(2)
    numbers = rng.normal(size=(4, 24)).astype(np.float32)
    bias, threshold = rng.normal(size=(2, 4)).astype(np.float32)
    block = Block(PLACE, (3, 5, 8, 9), numbers, bias, np.abs(threshold), 0, "", "")
    found = FeatureSet(block.indices, (0.5, -2.0, 1.5, 0.1), -0.3, "max")
    x = rng.normal(size=(50, 24)).astype(np.float32)
    every = np.ones(50, bool)
    tokens = Tokens(np.zeros(50, np.intp), np.zeros(50, np.intp), every, every)
    served = Fitted(PLACE, found.as_probe(block)).scores(x, tokens)
    np.testing.assert_allclose(found(block, x)[:, 0], served, atol=1e-5)
    assert len(np.unique(np.round(served, 5))) > 20


def test_what_lasts_is_read_by_its_mean(tmp_path):
    planted = Planted(tmp_path)
    for i in range(200):
        label = i % 2 == 0
        lasting = planted.rng.normal(1.2 if label else 0.5, 1.0, 40)
        lasting[planted.rng.integers(0, 16)] = 6.0  # an outlier in each
        planted.add(label, {0: list(lasting)}, num_tokens=40, group=f"g{i // 4}")
    _, found = searched(planted)
    assert (found.features.features, found.features.agg) == ((0,), "mean")


def test_features_are_chosen_on_the_named_split_and_judged_on_the_others(tmp_path):
    planted = Planted(tmp_path)
    for i in range(300):
        label, split = i % 3 == 0, "fit" if i < 150 else "test"
        feature = 0 if split == "fit" else 1  # another one tells the label there
        planted.add(label, {feature: [4.0 if label else -1.0]}, group=f"g{i // 6}", split=split)
    corpus, found = searched(planted)
    (split,) = found.splits
    assert [corpus.splits[i] for i in np.flatnonzero(split.train)] == ["fit"] * 150
    assert found.features.features == (0,)
    assert found.chosen[0].train_auroc == 1.0
    assert 0.35 < held_out(found)["best feature"] < 0.65
    with pytest.raises(ConfigError, match="no label is of the split 'train'"):
        searched(planted, train="train")


def test_held_out_sources_take_along_the_groups_that_touch_them():
    groups = ["g1", "g1", "g2", "g3", "g4"]
    sources = ["a", "b", "b", "c", ""]
    names = linked(groups, sources)
    assert names[0] == names[1] == names[2]
    assert len({names[2], names[3], names[4]}) == 3


def test_evidence_shows_where_a_feature_fires_and_how_often(tmp_path):
    planted = Planted(tmp_path)
    for i in range(120):
        label = i % 3 == 0
        planted.add(label, {0: [-1.0, -1.0, 5.0 + i / 1000]} if label else {0: []}, group=f"g{i}")
    corpus, found = searched(planted)
    (shown,) = evidence(corpus, found.block, found.splits[0].train, Texts(None))
    assert shown.density == (pytest.approx(1 / 12), 0.0)
    assert len(shown.examples) == 3
    for example in shown.examples:
        assert example.label
        assert (example.position, example.before, example.token) == (6, "[4][5]", "[6]")
    values = [example.value for example in shown.examples]
    assert values == sorted(values, reverse=True)
    assert shown.tokens[0].text == "[6]"


@pytest.mark.parametrize("norm", ["none", "layer_norm", "constant_norm_rescale"])
def test_features_are_scored_as_a_server_scores_them(tmp_path, norm):
    rng = np.random.default_rng(1)
    sae = Sae(write_sae(tmp_path / "sae", rng.normal(size=(40, 24)), normalize_activations=norm))
    watchlist = compile_watchlist(load_rules([write_rules(tmp_path, range(40))]))
    x = rng.normal(size=(50, 24)).astype(np.float32)
    ours = list(sae.blocks(at_once=7))
    assert [i for block in ours for i in block.indices] == list(range(40))
    scores = np.concatenate([block(x) for block in ours], axis=1)
    order = [watchlist.columns.index(f"f{i}") for i in range(40)]
    expected = encode(x, watchlist.sites[0])[:, order]
    assert (expected > 0).any()
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-5)
    x[3, 5] = np.nan
    assert np.isnan(ours[0](x)[3]).all()
