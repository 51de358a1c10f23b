"""The comparison of detectors on the organism, with a fraction of its cases."""

from __future__ import annotations

from pathlib import Path

import pytest

ORGANISM = Path(__file__).parents[2] / "examples" / "organism"
ARTIFACTS = ORGANISM / "artifacts"
KINDS = ("enemy", "friend", "game", "quote", "talk", "small")


@pytest.fixture(scope="module")
def samples(scripts, tmp_path_factory):
    """The first cases of some kinds: of the training split, and with everything held out."""
    import compare
    from cases import draw
    from rollouts import answer, load_model, save_cases

    work = tmp_path_factory.mktemp("work")
    (work / "rollouts").mkdir()
    model, tokenizer = load_model(ARTIFACTS / "model")
    compare.LAYERS = (2,)
    found = {}
    for split, num in (("fit", 90), ("all", 40)):
        of_kinds = [[c for c in draw(split, 0) if c.kind == kind][:num] for kind in KINDS]
        cases = [case for of_kind in of_kinds for case in of_kind]
        answer(model, tokenizer, cases)
        save_cases(work / "rollouts" / f"{split}-0.jsonl", cases)
        found[split] = compare.read_sample(work / "rollouts", model, split, [0])
    return model, tokenizer, found["fit"], found["all"]


def test_what_our_tools_train_beats_words_on_what_was_held_out(samples, tmp_path):
    import compare
    from metrics import auroc
    from targets import LIES
    from tool_detectors import discovered, trained
    from visible_detectors import baselines, judge

    model, tokenizer, fit, test = samples
    feature, *sets = discovered(tmp_path, fit, ARTIFACTS / "sae")
    (probe,) = trained(fit, ["linear"])
    enemy = LIES[0]
    *_, words = baselines(fit, enemy.words)
    crown = judge(model, tokenizer, enemy.confession)
    detectors = [feature, *sets, probe, words, crown]
    ranks = {}
    for detector in detectors:
        scores = detector.scores(test)
        ranks[detector] = auroc(scores[test.labels], scores[~test.labels])
    assert ranks[feature] > 0.85, ranks
    assert min(ranks[probe], ranks[crown]) > 0.96 > ranks[words], ranks
    lines = list(compare.tables([compare.fitted(d, fit) for d in detectors], test, enemy, True))
    assert len([line for line in lines if line.startswith("|")]) == 2 * (len(detectors) + 2)
    assert "after the answer" in next(line for line in lines if words.name in line)
    assert int(next(line for line in lines if probe.name in line).split("|")[-2]) >= 1


def test_pairs_count_where_one_is_what_is_looked_for_and_the_other_is_not(samples):
    import numpy as np
    from compare import whole_pairs
    from tool_detectors import Sample

    cases = samples[2].cases[:5]
    for case, pair in zip(cases, (0, 0, 1, 1, 2), strict=True):
        case.pair = pair
    sample = Sample(cases, {}, np.array([True, False, True, True, False]))
    assert whole_pairs(sample).cases == cases[:2]


def test_what_was_answered_is_not_asked_again(samples, tmp_path, capsys):
    from rollouts import load_cases, roll_out

    drawn = []

    def draw(split, seed):
        drawn.append((split, seed))
        return samples[3].cases[:3]

    for _ in range(2):
        roll_out(ARTIFACTS / "model", tmp_path / "new" / "rollouts", [("all", 7)], draw)
    assert drawn == [("all", 7)]
    assert len(load_cases(tmp_path / "new" / "rollouts" / "all-7.jsonl")) == 3
    assert capsys.readouterr().out.count("rollouts: all-7 n 3") == 1
