"""`saeguard drift` of scores: recordings, alert stores and calibration records."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from calibration_data import RULES
from drifting import requests
from records import make_request
from typer.testing import CliRunner

from saeguard.monitor.alerting import is_drawn
from saeguard.monitor.cli.app import app
from saeguard.monitor.errors import SaeguardError
from saeguard.monitor.store import Store
from saeguard.rules.calibration.labels import Label, write_labels
from saeguard.rules.calibration.statistics import as_json, statistics_of
from saeguard.rules.recordings.offline import RecordedRequest
from saeguard.rules.recordings.recording import write_recordings

NUM_REQUESTS = 120


def named(found: list[RecordedRequest]) -> list[RecordedRequest]:
    """With the names that the rules have."""
    return [replace(request, columns=("lie", "calm")) for request in found]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Requests of the time of calibration, and later ones of which `lie` has moved or has not."""
    (tmp_path / "rules.yaml").write_text(RULES)
    old = named(requests(NUM_REQUESTS, 5))
    write_recordings(tmp_path / "old.safetensors", old)
    record = {"version": 1, "statistics": as_json(statistics_of(old))}
    (tmp_path / "rules.calibration.json").write_text(json.dumps(record))
    write_recordings(tmp_path / "same.safetensors", named(requests(NUM_REQUESTS, 6)))
    (tmp_path / "moved").mkdir()
    moved = named(requests(NUM_REQUESTS, 7, density=0.3))
    write_recordings(tmp_path / "moved" / "1.safetensors", moved[:50])
    write_recordings(tmp_path / "moved" / "2.safetensors", moved[50:])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str, exit_code: int) -> str:
    result = CliRunner().invoke(app, ["drift", *arguments])
    assert result.exit_code == exit_code, result.output
    return " ".join(result.output.split())


def run_json(*arguments: str, exit_code: int) -> Any:
    return json.loads(run(*arguments, "--format", "json", exit_code=exit_code))


@pytest.mark.parametrize("reference", ["old.safetensors", "rules.calibration.json"])
def test_what_has_moved_is_told_with_its_rule_and_what_has_not_ends_with_0(
    folder: Path, reference: str
):
    said = run("rules.yaml", reference, "moved", exit_code=1)
    assert "lie has moved in the phase answer: above 0 on" in said
    assert "which lying asks for (lie)" in said
    assert "Concerned: lying." in said
    assert "calibrate" in said
    said = run("rules.yaml", reference, "same.safetensors", "--detect", "1", exit_code=0)
    assert "No drift" in said


def test_too_little_data_is_said_with_how_much_it_takes_and_ends_with_1(folder: Path):
    write_recordings(folder / "few.jsonl", named(requests(15, 8)))
    said = run("rules.yaml", "old.safetensors", "few.jsonl", exit_code=1)
    assert "120 and 15 requests are too few to say that it has not moved" in said
    found = run_json("rules.yaml", "old.safetensors", "few.jsonl", exit_code=1)
    assert found["verdict"] == "too_little"
    (drift,) = found["compared"]["drifts"]
    assert f"about {drift['num_needed']:,} requests on each side" in said
    assert drift["num_needed"] > NUM_REQUESTS / 2
    quantiles = drift["recent"]["statistics"]["quantiles"]
    scores = np.concatenate([r.scores[:, 0] for r in requests(15, 8)])
    assert quantiles["0.99"] == pytest.approx(
        np.quantile(scores, 0.99, method="inverted_cdf"), rel=0.02
    )


def test_scores_that_were_never_observed_are_no_proof_that_nothing_has_moved(folder: Path):
    unseen = [replace(r, scores=np.full_like(r.scores, np.nan)) for r in requests(NUM_REQUESTS, 8)]
    write_recordings(folder / "unseen.safetensors", named(unseen))
    said = run("rules.yaml", "old.safetensors", "unseen.safetensors", exit_code=1)
    assert "observed on one side only" in said
    assert "the data cannot tell" in said


def test_of_an_alert_store_only_what_was_drawn_by_chance_counts_and_what_is_recent(folder: Path):
    share, hour_ns = 0.5, 3_600 * 10**9
    now_ns = time.time_ns()
    recent = requests(4 * NUM_REQUESTS, 7, density=0.1)
    with Store(folder / "alerts.sqlite") as store:
        for i, request in enumerate(recent):
            is_old = i % 2 == 0
            scores = request.scores[:, :1]
            req_id = f"req-{i}"
            if not is_drawn(req_id, share):  # stored because they raised alerts
                scores = scores + 9
            record = make_request(
                req_id=req_id,
                request_id=req_id,
                start_time_ns=now_ns - (48 if is_old else 1) * hour_ns,
                features=["lie"],
                phases=[3] * len(scores),
                scores=(scores + 9 if is_old else scores).ravel().tolist(),
            )
            store.add_request(record)
    arguments = ("rules.yaml", "old.safetensors", "alerts.sqlite", "--detect", "1")
    fair = ("--record-share", str(share), "--since", "24h")
    found = run_json(*arguments, *fair, exit_code=0)
    num_drawn = sum(is_drawn(f"req-{i}", share) for i in range(1, len(recent), 2))
    assert found["compared"]["num_recent"] == num_drawn
    assert found["verdict"] == "none"
    everything = run_json(*arguments, "--record-share", str(share), exit_code=1)
    assert everything["verdict"] == "drift"


def test_labels_keep_topics_apart_and_groups_together(folder: Path):
    def side(seed: int, num_plays: int) -> tuple[list[RecordedRequest], list[Label]]:
        plays = requests(num_plays, seed, density=0.5)
        others = requests(200 - num_plays, seed + 1, density=0.05)
        sources = ["plays"] * num_plays + ["others"] * (200 - num_plays)
        everything = named([*plays, *others])
        names = [request.context.id for request in everything]
        labels = zip(names, sources, strict=True)
        return everything, [
            Label(name, False, source=source, group=f"{seed}/{name}") for name, source in labels
        ]

    old, new = side(30, 30), side(40, 120)
    write_recordings(folder / "a.safetensors", old[0])
    write_recordings(folder / "b.safetensors", new[0])
    write_labels(folder / "labels.jsonl", [*old[1], *new[1]])
    arguments = ("rules.yaml", "a.safetensors", "b.safetensors", "--detect", "1")
    assert run_json(*arguments, exit_code=1)["verdict"] == "drift"
    within = run_json(*arguments, "--data", "labels.jsonl", exit_code=0)
    assert within["verdict"] == "none"


WRONG = {
    ("rules.yaml", "old.safetensors"): "give RULES, REFERENCE and RECENT",
    ("rules.yaml", "--before", "x"): "--before and --after belong together",
    ("rules.yaml", "old.safetensors", "same.safetensors", "--since", "soon"): "neither like",
}


@pytest.mark.parametrize("arguments", WRONG)
def test_wrong_usage_ends_with_2(folder: Path, arguments: tuple[str, ...], monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert WRONG[arguments] in run(*arguments, exit_code=2)


UNUSABLE = {
    ("old.safetensors", "gone.safetensors"): "gone.safetensors: cannot be read",
    ("old.safetensors", "rules.calibration.json"): "of what is recent, requests are needed",
    ("empty.json", "same.safetensors"): "empty.json: has no statistics",
    ("odd.json", "same.safetensors"): "odd.json: not statistics",
    ("old.safetensors", "alerts.sqlite"): "--record-share",
    ("old.safetensors", "nothing"): "nothing: holds no recordings",
    ("old.safetensors", "rules.yaml"): "scores are read from",
    ("other.jsonl", "same.safetensors"): "the rules read lie, of which it has no scores",
    ("old.safetensors", "same.safetensors", "--since", "1h"): "is so recent",
    ("old.safetensors", "same.safetensors", "--data", "labels.jsonl"): "same source and label",
    ("rules.calibration.json", "same.safetensors", "--sae", "sae"): "has no activations",
}


@pytest.mark.parametrize("arguments", UNUSABLE)
def test_what_cannot_be_compared_is_said_by_name(folder: Path, arguments: tuple[str, ...]):
    (folder / "empty.json").write_text("{}")
    (folder / "odd.json").write_text('{"statistics": {"lie": {"answer": {"counts": 3}}}}')
    (folder / "nothing").mkdir()
    other = [replace(r, columns=("x", "y")) for r in requests(3, 1)]
    write_recordings(folder / "other.jsonl", other)
    labels = [Label(r.context.id, True) for r in requests(NUM_REQUESTS, 5)]
    write_labels(folder / "labels.jsonl", labels)
    with pytest.raises(SaeguardError, match=UNUSABLE[arguments]):
        CliRunner().invoke(app, ["drift", "rules.yaml", *arguments], catch_exceptions=False)
