"""`saeguard train-probe` as a user runs it, on made-up activations."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import activation_data
import numpy as np
import pytest
from activation_data import served
from console_script import console_script

from saeguard.monitor.config import read_rules
from saeguard.rules.calibration.backtest import RuleResult, backtest
from saeguard.rules.calibration.labels import Example

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    return console_script(monkeypatch, capsys, tmp_path)


def train(run: Run, *more: str) -> tuple[int, str, str]:
    """Of what stands in `acts`."""
    arguments = ("--data", "acts/labels.jsonl", "-o", "lies.safetensors", "--folds", "3")
    return run("train-probe", "acts", *arguments, *more)


def backtested(rules: Path, examples: Sequence[Example]) -> RuleResult:
    (result,) = backtest(read_rules([str(rules)]), examples)
    return result


@pytest.mark.parametrize("kind", ["linear", "mean-difference", "multimax"])
def test_the_rule_finds_in_new_requests_what_the_report_promises(
    run: Run, tmp_path: Path, kind: str
):
    activation_data.write(tmp_path / "acts", activation_data.examples(80))
    code, out, err = train(
        run, "--kind", kind, "--hook-point", activation_data.LATE, "--format", "json"
    )
    assert code == 0, err
    report = json.loads(out)
    assert report["figures"]["auroc"]["value"] > 0.85
    assert report["layers"][0]["name"] == activation_data.LATE
    new = activation_data.examples(80, seed=1)
    result = backtested(tmp_path / "lies.yaml", served(tmp_path / "lies.yaml", new))
    assert result.recall.share is not None
    assert result.recall.share >= report["figures"]["recall"]["low"]
    assert result.false_alarm_rate.share is not None
    assert result.false_alarm_rate.share <= 0.1  # 1 % of 60 is none: the threshold is an estimate


def test_the_draft_passes_the_check_and_says_where_it_is_from(run: Run, tmp_path: Path):
    activation_data.write(tmp_path / "acts", activation_data.examples(60))
    assert train(run, "--kind", "mean-difference")[0] == 0
    code, out, _ = run("check", "lies.yaml", "--strict")
    assert (code, "no errors, no warnings" in out) == (0, True)
    lines = (tmp_path / "lies.yaml").read_text().splitlines()
    comments = [line for line in lines if line.startswith("#")]
    assert any("acts with labels.jsonl" in line and "30 positives" in line for line in comments)
    assert any("Nested cross-validation, 3 folds" in line for line in comments)


def test_rules_of_somebody_else_are_not_overwritten(run: Run, tmp_path: Path):
    activation_data.write(tmp_path / "acts", activation_data.examples(40))
    for _ in range(2):
        assert train(run, "--kind", "mean-difference")[0] == 0  # its own draft may go
    (tmp_path / "lies.yaml").write_text("# mine\n")
    code, _, err = train(run, "--kind", "mean-difference")
    assert (code, "in the way of the rule draft" in err) == (2, True)
    assert (tmp_path / "lies.yaml").read_text() == "# mine\n"


@pytest.mark.parametrize("output", ["lies.yaml", "nowhere/lies.safetensors"])
def test_an_output_that_cannot_be_written_is_refused_before_the_work(
    run: Run, tmp_path: Path, output: str
):
    code, _, err = run("train-probe", "acts", "--data", "acts/labels.jsonl", "-o", output)
    assert (code, output in err) == (2, True)


def test_tokens_that_were_not_observed_are_left_out_and_counted(run: Run, tmp_path: Path):
    examples = activation_data.examples(60)
    for example in examples[:10]:
        example.request.scores[5, 3] = np.nan
    examples[11].request.scores[:] = np.nan
    activation_data.write(tmp_path / "acts", examples)
    code, out, _ = train(run, "--kind", "mean-difference")
    assert code == 0
    assert "10 tokens left out" in out
    assert "1 request left out: nothing of the answer was recorded" in out


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--folds", "30"), "30 folds need as many groups, and the labels have 20"),
        (("--hook-point", "blocks.9.hook_resid_post"), "has no activations of blocks.9"),
        (("--hook-point", "blocks.9.nowhere"), "cannot be watched"),
        (("--phase", "dreams"), "unknown phase 'dreams'"),
        (("--phase", "tool_call"), "no request has an answer that was recorded"),
        (("--name", "Big Lie"), "no snake_case name"),
        (("--positive", "yes"), "no label is yes"),
        (("--split", "test"), "no label is of the split 'test'"),
        (("--against", "nowhere.yaml"), "nowhere.yaml"),
        (("--against", "nowhere"), "nowhere"),
        (("--kind", "forest"), "forest"),
    ],
)
def test_what_cannot_be_done_is_said(run: Run, tmp_path: Path, more: tuple[str, ...], said: str):
    activation_data.write(tmp_path / "acts", activation_data.examples(40))
    code, out, err = train(run, "--kind", "mean-difference", *more)
    assert code == 2
    assert said in err
    assert "Traceback" not in out + err
    assert not (tmp_path / "lies.safetensors").exists()


def test_labels_of_one_class_are_refused(run: Run, tmp_path: Path):
    examples = [e for e in activation_data.examples(40) if e.label.label]
    activation_data.write(tmp_path / "acts", examples)
    code, _, err = train(run)
    assert (code, "no request is negative" in err) == (2, True)


def test_positives_of_too_few_groups_are_refused(run: Run, tmp_path: Path):
    examples = activation_data.examples(60)
    kept = [e for e in examples if not e.label.label or e.label.group == "g0"]
    activation_data.write(tmp_path / "acts", kept)
    code, _, err = train(run)
    assert (code, "the positives are of 1 groups" in err) == (2, True)


def test_recordings_without_activations_are_refused(run: Run, tmp_path: Path):
    examples = [
        replace(e, request=replace(e.request, columns=("lie",), scores=e.request.scores[:, :1]))
        for e in activation_data.examples(40)
    ]
    activation_data.write(tmp_path / "acts", examples)
    code, _, err = train(run)
    assert (code, "holds no activations, only lie" in err) == (2, True)
    assert "capture MODEL --data D --activations" in err


@pytest.mark.parametrize(("kind", "module"), [("linear", "sklearn.linear_model"), ("mlp", "torch")])
def test_without_its_library_the_extra_is_named(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, module: str
):
    activation_data.write(tmp_path / "acts", activation_data.examples(40))
    monkeypatch.setitem(sys.modules, module, None)
    code, _, err = train(run, "--kind", kind)
    assert (code, "pip install 'saeguard[training]'" in err) == (2, True)
