"""`saeguard discover`, from recordings to a rule that the other commands take."""

from __future__ import annotations

import json

import numpy as np
import pytest
from console_script import console_script
from planted import Planted, write_sae

from saeguard.monitor.watchlist import load


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    return console_script(monkeypatch, capsys, tmp_path)


@pytest.fixture
def planted(tmp_path) -> Planted:
    (tmp_path / "acts").mkdir()
    write_sae(tmp_path / "sae", np.eye(24))
    planted = Planted(tmp_path / "acts")
    for i in range(240):
        label, kind = i % 3 == 0, (i // 3) % 2
        height = planted.rng.normal(3.0, 1.2)
        planted.add(label, {kind: [0.0, height]} if label else {}, group=f"g{i // 6}", source="x")
    planted.write()
    return planted


DISCOVER = ("discover", "sae", "acts", "--data", "acts/labels.jsonl")


def test_its_draft_is_a_rule_that_check_compile_backtest_and_calibrate_take(run, planted, tmp_path):
    code, out, _ = run(*DISCOVER, "-o", "lies.yaml")
    assert code == 0
    assert "saeguard backtest lies.yaml lies.recorded" in out
    assert run("check", "lies.yaml")[0] == 0
    assert run("compile", "lies.yaml", "-o", "watch.safetensors")[0] == 0
    columns = load(tmp_path / "watch.safetensors").columns
    assert sorted(columns) == ["lies_set", "lies_set/0", "lies_set/1"]
    labels = ("lies.recorded", "--data", "lies.recorded/labels.jsonl", "--split")
    code, backtested, _ = run("backtest", "lies.yaml", *labels, "test", "--format", "json")
    (result,) = json.loads(backtested)
    code, out, _ = run(*DISCOVER, "--format", "json")
    alarm = json.loads(out)["alarm"]
    assert result["recall"] == alarm["recall"]
    assert result["false_alarm_rate"] == alarm["false_alarms"]
    assert alarm["recall"]["count"] > 5
    code, out, _ = run("calibrate", "lies.yaml", *labels, "fit", "--max-false-alarms", "1/10req")
    assert code == 0
    assert "lies: score gte" in out


def test_its_draft_says_where_it_is_from(run, planted, tmp_path):
    run(*DISCOVER, "-o", "lies.yaml", "--seed", "7")
    text = (tmp_path / "lies.yaml").read_text()
    for part in (
        "# data        labels.jsonl, sha256 ",
        "# SAE         sae, sha256 ",
        "# split       fold 1: chosen on 192 requests, judged on 48 of other groups; seed 7",
        "# held out    mean difference, blocks.3.hook_resid_post: AUROC ",
        "# verdict     the set of 2 is better than the best feature held out: its AUROC is +0.",
        "x feature 0\n",
        "x feature 1\n",
        'lies_set: {probe: {path: "lies.probe.safetensors"}, name: lies_set, label: "a set of 2',
        "feature: lies_set, agg: max",
    ):
        assert part in text


def test_a_draft_of_one_feature_reads_it_from_the_sae_and_says_that_no_set_was_better(
    run, planted, tmp_path
):
    code, out, _ = run(*DISCOVER, "-o", "lies.yaml", "--features", "1")
    assert code == 0
    text = (tmp_path / "lies.yaml").read_text()
    assert 'sae: &sae {path: "sae"}' in text
    assert "{sae: *sae, index: 0, label:" in text or "{sae: *sae, index: 1, label:" in text
    assert "no set was better than the best feature" in text
    assert "no set was better than the best feature" in out
    assert not (tmp_path / "lies.probe.safetensors").exists()
    assert run("check", "lies.yaml")[0] == 0


def test_the_same_data_and_seed_give_the_same_rule(run, planted, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        run(*DISCOVER, "-o", f"{name}/rule.yaml")
    first, second = (
        [line for line in (tmp_path / name / "rule.yaml").read_text().splitlines()
         if "- id:" not in line]
        for name in ("a", "b")
    )  # fmt: skip
    assert first == second


def test_where_labels_are_chance_nothing_is_drafted(run, planted, tmp_path):
    rng = np.random.default_rng(3)
    path = tmp_path / "acts" / "labels.jsonl"
    labels = [json.loads(line) for line in path.read_text().splitlines()]
    dealt = rng.permutation([label["label"] for label in labels])
    text = [json.dumps({**a, "label": bool(b)}) for a, b in zip(labels, dealt, strict=True)]
    path.write_text("\n".join(text))
    code, out, _ = run(*DISCOVER, "-o", "lies.yaml")
    assert code == 1
    assert "no feature tells positives from negatives" in out
    assert not (tmp_path / "lies.yaml").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("discover", "sae", "nowhere", "--data", "acts/labels.jsonl"), "no recordings there"),
        (("discover", "acts", "acts", "--data", "acts/labels.jsonl"), "holds no SAE"),
        (("discover", "sae", "acts", "--data", "none.jsonl"), "none.jsonl: cannot be read"),
        ((*DISCOVER, "--phase", "middle"), "unknown phase 'middle'"),
        ((*DISCOVER, "--folds", "50"), "50 folds need as many groups, and the labels have 40"),
        ((*DISCOVER, "-o", "no/such/place.yaml"), "no/such/place.yaml: cannot be written"),
        (("discover", "elsewhere", "acts", "--data", "acts/labels.jsonl"),
         "reads blocks.9.hook_resid_post, and the recordings have activations of blocks.3"),
        (("discover", "wide", "acts", "--data", "acts/labels.jsonl"), "reads 30 numbers"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_said_in_one_line(run, planted, tmp_path, arguments, message):
    metadata = {"hook_name": "blocks.9.hook_resid_post"}
    write_sae(tmp_path / "elsewhere", np.eye(24), metadata=metadata)
    write_sae(tmp_path / "wide", np.eye(30))
    code, out, err = run(*arguments)
    assert code == 2
    assert message in " ".join((out + err).replace("│", " ").split())
    assert "Traceback" not in out + err


def test_with_probe_a_linear_probe_is_judged_beside_the_features(run, planted):
    code, out, _ = run(*DISCOVER, "--probe")
    assert code == 0
    (row,) = (line.split() for line in out.splitlines() if line.startswith("linear probe"))
    training, held_out = float(row[2]), float(row[3])
    assert min(training, held_out) > 0.75  # .5 is chance
