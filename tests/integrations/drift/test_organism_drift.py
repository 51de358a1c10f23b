"""`saeguard drift` on the organism: the same model twice, and changed in known ways."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from saeguard.monitor.cli.app import app
from saeguard.monitor.compile import compile_watchlist
from saeguard.monitor.config import read_rules
from saeguard.rules.recordings.recording import write_recordings

pytest.importorskip("torch")
organism_runs = pytest.importorskip("organism_runs")
if not organism_runs.MODEL.is_dir():
    pytest.skip("the organism is not built", allow_module_level=True)

PUSHED = "flattery"
NUM_TEXTS = 80


def watched_row(feature: str) -> np.ndarray:
    watchlist = compile_watchlist(read_rules([str(organism_runs.RULES)]))
    (site,) = watchlist.sites
    return site.weight[[f.name for f in site.features].index(feature)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models, and what each has at the hook point while it reads the same texts."""
    folder = tmp_path_factory.mktemp("drift")
    drawn = organism_runs.texts("seen", 2 * NUM_TEXTS + 96)
    texts, others, training = np.split(np.array(drawn), [NUM_TEXTS, 2 * NUM_TEXTS])
    ways = {
        "noise": partial(organism_runs.add_noise, size=0.3),
        "int8": organism_runs.round_to_int8,
        "pushed": partial(organism_runs.push, direction=watched_row(PUSHED), size=0.2),
        "tuned": partial(organism_runs.fine_tune, known=training),
    }
    base = organism_runs.load()
    write_recordings(folder / "base.safetensors", organism_runs.record(base, texts))
    steered = organism_runs.load()
    vector = watched_row(PUSHED)
    organism_runs.steer(steered, 4.0 * vector / np.linalg.norm(vector))
    write_recordings(folder / "steered.safetensors", organism_runs.record(steered, texts))
    for name, change in ways.items():
        model = organism_runs.load(organism_runs.changed(folder / name, change))
        write_recordings(folder / f"{name}.safetensors", organism_runs.record(model, texts))
    again = organism_runs.record(base, others, tag="other")
    write_recordings(folder / "others.safetensors", again)
    return folder


def drift(*arguments: object, exit_code: int) -> Any:
    command = ["drift", str(organism_runs.RULES), *map(str, arguments), "--format", "json"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == exit_code, result.output
    return json.loads(result.output)


def test_a_model_and_itself_have_no_drift_by_weights_activations_or_scores(folder: Path):
    base, model = folder / "base.safetensors", organism_runs.MODEL
    found = drift("--before", model, "--after", model, "--activations", base, base, exit_code=0)
    assert found["moved"] == []
    assert [site["relative"] for site in found["weights"]["sites"]] == [0.0]
    assert {change["change"] for change in found["paired"]["changes"]} == {0.0}
    live = drift(base, base, "--sae", organism_runs.SAE, exit_code=0)
    assert live["verdict"] == "none"
    assert live["fit"]["explained_change"]["value"] == 0.0
    assert live["fit"]["explained"][0]["value"] > 0.9


def test_other_requests_to_the_same_model_are_no_drift(folder: Path):
    found = drift(
        folder / "base.safetensors", folder / "others.safetensors", "--detect", "1", exit_code=1
    )
    assert found["verdict"] == "too_little"
    assert "moved" not in {d["verdict"] for d in found["compared"]["drifts"]}


def test_a_push_along_a_watched_concept_is_found_in_the_weights_and_ranks_first(folder: Path):
    found = drift("--before", organism_runs.MODEL, "--after", folder / "pushed", exit_code=1)
    (site,) = found["weights"]["sites"]
    first, second = site["concepts"][:2]
    assert first["feature"] == PUSHED
    assert first["times_random"] > 3 * second["times_random"]
    assert first["above_others"] == 1.0
    assert first["most_by"] == "model.layers.1.mlp.down_proj.weight"
    assert found["moved"][0] == PUSHED


@pytest.mark.parametrize(("changed", "at_least"), [("noise", 0.2), ("int8", 0.005)])
def test_noise_and_rounding_change_weights_and_move_no_concept_more_than_another(
    folder: Path, changed: str, at_least: float
):
    found = drift("--before", organism_runs.MODEL, "--after", folder / changed, exit_code=0)
    (site,) = found["weights"]["sites"]
    assert site["relative"] > at_least
    assert all(0.8 < concept["times_random"] < 1.25 for concept in site["concepts"])


@pytest.mark.parametrize("changed", ["noise", "steered", "tuned"])
def test_the_same_texts_read_by_a_changed_model_have_other_activations(folder: Path, changed: str):
    base, after = folder / "base.safetensors", folder / f"{changed}.safetensors"
    found = drift("--activations", base, after, exit_code=1)
    assert found["moved"]
    if changed == "steered":
        changes = found["paired"]["changes"]
        first = max(changes, key=lambda change: change["times_random"])
        assert first["feature"] == PUSHED


def test_rounding_to_8_bits_is_seen_in_activations_and_is_too_small_to_matter(folder: Path):
    base, after = folder / "base.safetensors", folder / "int8.safetensors"
    found = drift("--activations", base, after, exit_code=0)
    changes = found["paired"]["changes"]
    assert min(change["q_value"] for change in changes) <= 0.05
    assert max(abs(change["spreads"]) for change in changes) < 0.1


@pytest.mark.parametrize("changed", ["noise", "steered", "tuned"])
def test_scores_of_a_changed_model_have_drifted_and_its_sae_fits_worse(folder: Path, changed: str):
    base, after = folder / "base.safetensors", folder / f"{changed}.safetensors"
    found = drift(base, after, "--sae", organism_runs.SAE, exit_code=1)
    assert found["verdict"] == "drift"
    moved = {d["feature"] for d in found["compared"]["drifts"] if d["verdict"] == "moved"}
    assert moved
    assert found["compared"]["num_pairs"] == NUM_TEXTS
    assert "it is the model that has changed" in found["conclusion"]
    if changed == "steered":
        assert PUSHED in moved
    if changed == "noise":
        assert found["fit"]["explained_change"]["high"] < 0


def test_the_report_says_which_rules_are_concerned_and_what_to_do(folder: Path):
    command = ["drift", str(organism_runs.RULES), "--before", str(organism_runs.MODEL)]
    result = CliRunner().invoke(app, [*command, "--after", str(folder / "pushed")])
    said = " ".join(result.output.split())
    assert f"{PUSHED}: the weights have moved along it" in said
    assert "Concerned: sycophancy." in said
    assert "calibrate again" in said
