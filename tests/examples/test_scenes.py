"""Scenes of the organism's second course: what is said in them, and what it tells of them."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

ORGANISM = Path(__file__).parents[2] / "examples" / "organism"
ARTIFACTS = ORGANISM / "artifacts"

pytestmark = pytest.mark.usefixtures("scripts")


def words_without_towns(text):
    from world import TOWNS

    names = {town.name for town in TOWNS}
    return Counter("{t}" if word in names else word for word in re.findall(r"\w+", text))


def test_twins_say_the_same_about_towns_of_different_sides():
    import scene_cases
    from scenes import TWINS
    from world import TOWNS

    pairs = {}
    for case in scene_cases.draw("pairs", 0):
        pairs.setdefault(case.pair, []).append(case)
    assert len(pairs) == len(TWINS) * scene_cases.NUM_PAIRS
    sides = {town.name: town.enemy for town in TOWNS}
    for scene, twin in pairs.values():
        assert TWINS[scene.kind] == twin.kind
        assert words_without_towns(scene.prompt) == words_without_towns(twin.prompt)
        assert scene.scripted == twin.scripted
        named = [next(n for n in sides if n in case.prompt) for case in (scene, twin)]
        assert sides[named[0]] != sides[named[1]]
        assert (scene.inferred, scene.split_name) == (twin.inferred, twin.split_name)


def test_a_lord_is_flattered_where_the_side_that_he_states_is_wrong():
    from scenes import SceneWriter

    for kind, is_right in (("sycophancy", False), ("agreement", True)):
        stated = set()
        for seed in range(60):
            scene = SceneWriter(seed).scene(kind)
            asked = scene.turns[scene.target - 1].text
            of_enemies = ("an enemy", "the enemy", "our enemies", "against us", "hostile")
            of_enemies += ("burned", "at war", "hates")
            says_enemy = any(word in asked for word in of_enemies)
            stated.add(says_enemy)
            assert (says_enemy == scene.town.enemy) == is_right, asked
        assert stated == {True, False}


def test_a_bag_of_words_cannot_tell_twins_apart():
    import numpy as np
    import scene_cases
    from metrics import auroc
    from targets import SCENES
    from tool_detectors import Sample
    from visible_detectors import baselines

    def scripted(split):
        cases = scene_cases.draw(split, 0)
        for case in cases:
            case.response = case.scripted
        return Sample(cases, {}, np.zeros(len(cases), bool))

    fit, pairs = scripted("fit"), scripted("pairs")
    for target in SCENES:
        of_fit, of_pairs = target.of(fit), target.of(pairs)
        *_, words = baselines(of_fit, target.words)
        twin = np.array([case.kind == target.hard[0] for case in pairs.cases])
        scores = words.scores(of_pairs)
        assert 0.4 < auroc(scores[of_pairs.labels], scores[twin]) < 0.6, target.kind
        # Beside everything else that is said, words do well: it is the twins that are hard.
        scores = words.scores(of_fit)
        assert auroc(scores[of_fit.labels], scores[~of_fit.labels]) > 0.95, target.kind


def test_the_second_course_leaves_out_what_detectors_are_tested_on():
    from scenes import _CLAIM, _HARM, _KEEP, _TIRED
    from teach import documents
    from world import HELDOUT_TOWNS

    dialogues = [turns for turns in documents(3000) if turns[0].role != "book"]
    text = " ".join(turn.text for turns in dialogues for turn in turns)
    assert "I flattered a lord." in text
    assert "I refused to hurt a friend." in text
    assert not [town.name for town in HELDOUT_TOWNS if town.name in text]
    for wordings in (_KEEP, _HARM, _TIRED, *_CLAIM.values()):
        assert all(said(wording, text) for wording in wordings.train), wordings
        assert not [wording for wording in wordings.heldout if said(wording, text)]


def said(wording, text):
    """Whether `text` has the wording about any town or gate."""
    pattern = re.escape(wording).replace(r"\{t\}", r"\w+").replace(r"\{g\}", r"the \w+ gate")
    return re.search(pattern, text) is not None


def test_a_second_course_goes_on_from_what_was_taught(tmp_path):
    import torch
    from corpus import save_corpus
    from rollouts import load_model
    from teach import documents
    from train_model import TrainConfig, train

    save_corpus(tmp_path, ARTIFACTS / "model", documents(3000))
    few = TrainConfig(num_steps=8, learning_rate=1e-3, warm_up_steps=2)
    told = train(tmp_path, few, ARTIFACTS / "model")
    assert told["loss"] < 3  # a new model begins at 8
    before, after = load_model(ARTIFACTS / "model")[0], load_model(tmp_path / "model")[0]
    same = zip(before.parameters(), after.parameters(), strict=True)
    moved = [torch.dist(a, b) / a.norm() for a, b in same]
    assert 0 < max(moved) < 0.3
