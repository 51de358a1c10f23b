"""`saeguard backtest` and `saeguard calibrate`, from files of recordings and labels."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from calibration_data import RULES, examples
from safetensors.numpy import save_file
from typer.testing import CliRunner

from saeguard.monitor.cli.app import app
from saeguard.monitor.compile import compile_watchlist
from saeguard.monitor.errors import ConfigError
from saeguard.rules import load_rules
from saeguard.rules.calibration.labels import write_labels
from saeguard.rules.recordings.recording import read_recordings, write_recordings


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    known = examples(600, source="arena")
    (tmp_path / "rules.yaml").write_text(RULES)
    (tmp_path / "recorded").mkdir()
    requests = [example.request for example in known]
    write_recordings(tmp_path / "recorded" / "1.safetensors", requests[:300])
    write_recordings(tmp_path / "recorded" / "2.safetensors", requests[300:])
    write_labels(tmp_path / "labels.jsonl", [example.label for example in known])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str, exit_code: int = 0) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == exit_code, result.output
    return result.output


BACKTEST = ("backtest", "rules.yaml", "recorded", "--data", "labels.jsonl")
CALIBRATE = ("calibrate", "rules.yaml", "recorded", "--data", "labels.jsonl")


def test_a_backtest_of_a_directory_of_recordings_says_how_often_the_rule_is_right(folder: Path):
    text = run(*BACKTEST)
    assert "300 positives and 300 negatives" in text
    assert "lying" in text
    assert "arena" in text
    (result,) = json.loads(run(*BACKTEST, "--format", "json"))
    assert result["recall"]["total"] == result["false_alarm_rate"]["total"] == 300
    assert f"{result['recall']['count']} of 300" in text
    assert f"{result['false_alarm_rate']['count']} of 300" in text


def test_false_alarms_on_hard_negatives_stand_in_a_row_of_their_own(folder: Path):
    lines = (folder / "labels.jsonl").read_text().splitlines()
    labels = [json.loads(line) for line in lines]
    hard = [label | {"source": "hard-1"} if not label["label"] else label for label in labels]
    (folder / "labels.jsonl").write_text("\n".join(map(json.dumps, hard[:200] + labels[200:])))
    num_hard = sum(not label["label"] for label in labels[:200])
    text = run(*BACKTEST, "--hard", "hard-*")
    (row,) = [line for line in text.splitlines() if "on hard negatives" in line]
    assert row.rstrip().endswith(f" of {num_hard}")
    assert "on hard negatives" not in run(*BACKTEST)
    (result,) = json.loads(run(*BACKTEST, "--hard", "hard-*", "--format", "json"))
    assert result["hard_negatives"]["total"] == num_hard
    with pytest.raises(ConfigError, match=r"--hard hrd-\*: no request is of such a source; there"):
        CliRunner().invoke(app, [*BACKTEST, "--hard", "hrd-*"], catch_exceptions=False)


def test_requests_of_other_splits_are_not_said_to_lack_a_label(folder: Path):
    lines = (folder / "labels.jsonl").read_text().splitlines()
    labels = [json.loads(line) for line in lines[:-1]]
    for i, label in enumerate(labels):
        label["split"] = "test" if i < 500 else "fit"
    (folder / "labels.jsonl").write_text("\n".join(map(json.dumps, labels)))
    said = "99 recorded requests in other splits, 1 recorded request without a label\n"
    assert said in run(*BACKTEST, "--split", "test")
    assert said in run(*CALIBRATE, "--split", "test", "--max-false-alarms", "5/100req")


def test_without_write_the_change_is_shown_and_nothing_is_changed(folder: Path):
    text = run(*CALIBRATE, "--max-false-alarms", "5/100req")
    assert "-      lie: {feature: lie, agg: max, window: 4 tokens, gte: 3.0}   # by eye" in text
    assert "nothing was written; --write does" in text
    assert (folder / "rules.yaml").read_text() == RULES
    assert not list(folder.glob("*.calibration.json"))


def test_with_write_the_rules_hold_the_budget_and_a_record_says_how(folder: Path):
    run(*CALIBRATE, "--max-false-alarms", "5/100req", "--write")
    (rule,) = load_rules([folder / "rules.yaml"]).rules
    assert rule.signals[0].threshold != 3.0
    assert "# by eye" in (folder / "rules.yaml").read_text()
    record = json.loads((folder / "rules.calibration.json").read_text())
    chosen = record["rules"]["lying"]["chosen"]
    assert chosen["threshold"] == rule.signals[0].threshold
    assert chosen["bound"] <= 0.05
    assert record["labels"]["file"] == "labels.jsonl"
    (result,) = json.loads(run(*BACKTEST, "--format", "json"))
    assert result["false_alarm_rate"]["count"] == chosen["false_alarms"]


def test_too_little_data_changes_nothing_says_how_much_it_takes_and_ends_with_1(folder: Path):
    text = run(*CALIBRATE, "--max-false-alarms", "1/1000req", "--write", exit_code=1)
    assert "not enough: 300 negative requests; for 1/1000req" in text
    assert "2995 without a single false alarm" in text
    assert (folder / "rules.yaml").read_text() == RULES


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--rule", "lyin"), "no rule 'lyin' with signals, did you mean 'lying'"),
        (("--rule", "lying:calm"), "no signal 'calm'; it has lie"),
        (("--split", "test"), "no label is of the split 'test'"),
    ],
)
def test_what_cannot_be_calibrated_is_said(folder: Path, arguments, message):
    with pytest.raises(ConfigError, match=message):
        CliRunner().invoke(
            app,
            [*CALIBRATE, "--max-false-alarms", "5/100req", *arguments],
            catch_exceptions=False,
        )


def test_a_budget_that_is_none_is_wrong_usage(folder: Path):
    text = run(*CALIBRATE, "--max-false-alarms", "often", exit_code=2)
    assert "written like 1/1000req" in text


def test_a_rule_file_that_cannot_be_written_is_named_and_stays(folder: Path):
    (folder / "rules.yaml.partial").mkdir()
    with pytest.raises(ConfigError, match=r"rules\.yaml: cannot be written"):
        CliRunner().invoke(
            app,
            [*CALIBRATE, "--max-false-alarms", "5/100req", "--write"],
            catch_exceptions=False,
        )
    assert (folder / "rules.yaml").read_text() == RULES


def write_probe(path: Path, scale: float) -> None:
    header = {"hook_name": "blocks.1.hook_resid_post", "names": ["lie", "calm"]}
    tensors = {"weight": np.eye(2, 4, dtype=np.float32) * scale, "bias": np.zeros(2, np.float32)}
    save_file(tensors, path, metadata={"saeguard_probe": json.dumps(header)})


def test_scores_of_another_watchlist_are_warned_of_and_the_record_names_it(folder: Path):
    write_probe(folder / "p.safetensors", 1.0)
    digest = compile_watchlist(load_rules([folder / "rules.yaml"])).digest
    for path in sorted((folder / "recorded").iterdir()):
        requests = [replace(r, watchlist=digest) for r in read_recordings(path)]
        write_recordings(path, requests)
    budget = (*CALIBRATE, "--max-false-alarms", "5/100req")
    same = CliRunner().invoke(app, [*budget, "--write"])
    assert (same.exit_code, same.stderr) == (0, "")
    record = json.loads((folder / "rules.calibration.json").read_text())
    assert record["watchlists"] == [digest]
    write_probe(folder / "p.safetensors", 2.0)
    for command in (budget, BACKTEST):
        other = CliRunner().invoke(app, list(command))
        assert other.exit_code == 0
        assert f"scores are from the watchlist {digest[:12]}" in other.stderr
    (folder / "p.safetensors").unlink()
    unknown = CliRunner().invoke(app, list(BACKTEST))
    assert unknown.exit_code == 0
    assert "is not known: rules.yaml:5" in unknown.stderr


def test_the_record_holds_how_scores_are_distributed(folder: Path):
    run(*CALIBRATE, "--max-false-alarms", "5/100req", "--write")
    record = json.loads((folder / "rules.calibration.json").read_text())
    answer = record["statistics"]["lie"]["answer"]
    assert list(record["statistics"]) == list(record["peaks"]) == ["lie"]
    assert (answer["num_tokens"], answer["density"]) == (600 * 20, 1.0)
    peaks = record["peaks"]["lie"]["answer"]
    assert peaks["positives"]["num_tokens"] == peaks["negatives"]["num_tokens"] == 300
    assert peaks["positives"]["quantiles"]["0.5"] > 1.5 * peaks["negatives"]["quantiles"]["0.5"]


def test_a_report_and_plots_are_written_beside_the_text(folder: Path):
    text = run(*BACKTEST, "--html", "report.html", "--plots", "plots", "--rule", "lying:lie")
    assert "recall" in text
    assert "arena" in (folder / "report.html").read_text()
    assert len(list((folder / "plots").glob("lying-*.png"))) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--html", "nowhere/report.html"), "nowhere/report.html: cannot be written"),
        (("--plots", "rules.yaml"), "rules.yaml: cannot be written"),
        (("--rule", "lyin"), "no rule 'lyin', did you mean 'lying'"),
    ],
)
def test_a_report_that_cannot_be_written_is_named(folder: Path, arguments, message):
    with pytest.raises(ConfigError, match=message):
        CliRunner().invoke(app, [*BACKTEST, *arguments], catch_exceptions=False)


def test_what_is_drawn_below_the_threshold_can_be_labelled_and_tells_of_recall(folder: Path):
    lines = (folder / "labels.jsonl").read_text().splitlines()
    truth = {line["id"]: line["label"] for line in map(json.loads, lines)}
    (full,) = json.loads(run(*BACKTEST, "--format", "json"))
    alerted = (set(truth) - set(full["missed"])) & {i for i, lies in truth.items() if lies}
    known = [json.dumps({"id": i, "label": True}) for i in sorted(alerted)]
    (folder / "alerts.jsonl").write_text("\n".join(known))
    (folder / "recorded" / "answers.jsonl").write_text(
        json.dumps({"id": full["missed"][0], "response": "I never met him."}) + "\n{broken\n"
    )
    command = ["calibrate", "rules.yaml", "recorded", "--sample-below", "200"]
    result = CliRunner().invoke(app, [*command, "--data", "alerts.jsonl"])
    assert result.exit_code == 0, result.output
    drawn = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(drawn) == 200
    assert "nearest below 3" in result.stderr
    assert {line["source"] for line in drawn} == {
        "recorded/1.safetensors",
        "recorded/2.safetensors",
    }
    texts = [line["text"] for line in drawn if "text" in line]
    assert texts in ([], ["I never met him."])
    assert not alerted & {line["id"] for line in drawn}
    (folder / "drawn.jsonl").write_text(result.stdout)
    with pytest.raises(ConfigError, match="Expected `bool`, got `null`"):
        CliRunner().invoke(app, [*BACKTEST[:-1], "drawn.jsonl"], catch_exceptions=False)
    labelled = [line | {"label": {"lying": truth[line["id"]]}} for line in drawn]
    (folder / "all.jsonl").write_text("\n".join([*known, *map(json.dumps, labelled)]))
    (estimated,) = json.loads(run(*BACKTEST[:-1], "all.jsonl", "--format", "json"))
    assert (
        estimated["recall"]["low"] <= full["recall"]["count"] / 300 <= estimated["recall"]["high"]
    )
    assert estimated["false_alarm_rate"]["total"] == 0


def test_a_calibration_needs_a_budget_or_a_number_to_draw(folder: Path):
    assert "--sample-below" in run(*CALIBRATE, exit_code=2)
    assert "--data" in run(*CALIBRATE[:3], "--max-false-alarms", "5/100req", exit_code=2)
