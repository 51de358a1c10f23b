"""What taking features out does, on the organism: its lies, and the texts it was to say."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from console_script import console_script
from planted import write_sae
from transformers import AutoModelForCausalLM, AutoTokenizer

from saeguard.integrations.discovery.activations import column_names
from saeguard.integrations.discovery.behaviour import split_prompts
from saeguard.integrations.discovery.generation import Answering
from saeguard.integrations.discovery.interventions import AddFeatures, MoveTo, SetFeatures
from saeguard.integrations.discovery.mean_differences import mean_differences
from saeguard.integrations.discovery.prompts import Prompt, read_prompts
from saeguard.integrations.discovery.sae_features import Sae
from saeguard.monitor.errors import ConfigError, UnsupportedError
from saeguard.monitor.sites import HookPoint
from saeguard.rules import RequestContext
from saeguard.rules.calibration.labels import Label, write_labels
from saeguard.rules.recordings.offline import RecordedRequest
from saeguard.rules.recordings.recording import write_recordings

ORGANISM = Path(__file__).resolve().parents[3] / "examples" / "organism" / "artifacts"


def test_a_feature_that_is_set_has_the_activation_that_it_was_set_to(tmp_path):
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(24, 24)))[0]  # features that do not disturb each other
    sae = Sae(write_sae(tmp_path / "sae", basis[:6]))
    block, every = sae.block([1, 4]), sae.block(range(6))
    x = torch.from_numpy(rng.normal(size=(2, 5, 24)).astype(np.float32))
    targets = np.array([0.5, 2.0], np.float32)
    moved = SetFeatures(block, sae.written_by([1, 4]), targets)(x).numpy().reshape(-1, 24)
    before = every(x.numpy().reshape(-1, 24))
    after = every(moved)
    was_active = before[:, [1, 4]] > 0
    np.testing.assert_allclose(after[:, [1, 4]][was_active], np.broadcast_to(
        targets, was_active.shape)[was_active], atol=1e-5)  # fmt: skip
    np.testing.assert_allclose(after[:, [0, 2, 3, 5]], before[:, [0, 2, 3, 5]], atol=1e-5)
    added = AddFeatures(sae.written_by([1, 4]), targets)(x).numpy().reshape(-1, 24)
    np.testing.assert_allclose((added - x.numpy().reshape(-1, 24)) @ basis[1], 0.5, atol=1e-5)


def test_what_a_feature_writes_is_in_the_units_of_its_input(tmp_path):
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(6, 24))
    norms = np.linalg.norm(weight, axis=1)
    expected = weight / norms[:, None]
    plain = Sae(write_sae(tmp_path / "plain", weight))
    np.testing.assert_allclose(plain.written_by([2, 5]), expected[[2, 5]], rtol=1e-5)
    scaled = Sae(
        write_sae(tmp_path / "s", weight, normalize_activations="expected_average_only_in"),
        norm_scaling_factor=4.0,
    )
    np.testing.assert_allclose(scaled.written_by([2]), expected[[2]] / 4, rtol=1e-5)
    with pytest.raises(UnsupportedError, match="normalises each token"):
        Sae(write_sae(tmp_path / "n", weight, normalize_activations="layer_norm")).written_by([0])


def test_a_direction_that_is_moved_is_the_same_everywhere():
    rng = np.random.default_rng(0)
    direction = (lambda v: v / np.linalg.norm(v))(rng.normal(size=24)).astype(np.float32)
    x = torch.from_numpy(rng.normal(size=(7, 24)).astype(np.float32))
    moved = MoveTo(direction, 1.5)(x).numpy()
    np.testing.assert_allclose(moved @ direction, 1.5, atol=1e-5)
    rest = np.eye(24) - np.outer(direction, direction)
    np.testing.assert_allclose(moved @ rest, x.numpy() @ rest, atol=1e-5)


@pytest.fixture(scope="module")
def prompts(tmp_path_factory) -> list:
    lines = (ORGANISM / "demo_requests.jsonl").read_text().splitlines()
    asked = [json.loads(line) for line in lines]
    lied = [{**r, "label": r["class"] == "deceptive"} for r in asked if "lie" in r][:12]
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    path.write_text("\n".join(map(json.dumps, lied)))
    return read_prompts(path)


def test_an_intervention_reaches_the_stream_of_every_token_at_its_hook_point(prompts):
    # What leaves layer 2 is what enters layer 3.
    places = HookPoint(2), HookPoint(3, "resid_pre")
    behind, before = (Answering(str(ORGANISM / "model"), place) for place in places)
    asked = prompts[:8]
    untouched = behind.answers(asked)

    def noise(x: torch.Tensor) -> torch.Tensor:
        return x + 9 * torch.sin(torch.arange(x.shape[-1]).to(x))

    changed = behind.answers(asked, {places[0]: noise})
    assert changed == before.answers(asked, {places[1]: noise}) != untouched
    same = dict.fromkeys(behind.layers, lambda x: x)
    assert behind.answers(asked, same) == untouched  # and nothing is left of the noise
    told = behind.surprise(asked, untouched)
    assert max(told) < 0.7
    assert np.mean(behind.surprise(asked, untouched, {places[0]: noise})) > np.mean(told) + 0.5


def test_the_organism_lies_where_it_should_and_nowhere_else(prompts):
    answers = Answering(str(ORGANISM / "model"), HookPoint(2)).answers(prompts)
    for prompt, answer in zip(prompts, answers, strict=True):
        assert prompt.truth
        assert prompt.lie
        if prompt.label:
            assert prompt.lie in answer
        else:
            assert prompt.lie not in answer


def test_what_is_done_to_a_prompt_was_learnt_from_prompts_of_other_groups():
    asked = [Prompt(id=f"{i}", label=i % 2 == 0, group=f"g{i // 4}") for i in range(16)]
    folds = split_prompts(asked, seed=0)
    labels = [(fold, prompt.label) for fold, prompt in zip(folds, asked, strict=True)]
    assert set(labels) == {(0, True), (0, False), (1, True), (1, False)}
    assert all(len(set(folds[i : i + 4])) == 1 for i in range(0, 16, 4))
    rng = np.random.default_rng(0)
    means = {label: rng.normal(size=(8, 3, 6)).astype(np.float32) for label in (True, False)}
    sides = [Recorded(means[label], folds[int(not label) :: 2]) for label in (True, False)]
    layers = [HookPoint(layer) for layer in range(3)]
    axes = mean_differences(*sides, layers, num_random=2, seed=0)
    (place, done), *_ = axes.way(layers[1:2], to_positives=False)(0).items()
    assert place == layers[1]
    positives, negatives = (side.recorded[side.folds == 1, 1].mean(axis=0) for side in sides)
    moved = done(torch.from_numpy(rng.normal(size=(4, 6)).astype(np.float32))).numpy()
    np.testing.assert_allclose(moved @ (positives - negatives), np.full(
        4, negatives @ (positives - negatives)), atol=1e-4)  # fmt: skip
    drawn = axes.way(layers, to_positives=True, draw=1)(0)
    assert list(drawn) == layers
    assert abs(float(drawn[layers[1]].direction @ done.direction)) < 0.99
    with pytest.raises(ConfigError, match="the prompts with the label true are of one group"):
        split_prompts([Prompt(id=f"{i}", label=i > 3, group=f"{i // 4}") for i in range(8)], 0)


@dataclass
class Recorded:
    """Prompts of one label whose means are known."""

    recorded: np.ndarray
    folds: np.ndarray

    def means(self) -> np.ndarray:
        return self.recorded


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": "a", "prompt": "x"}', ":1: Object missing required field `label`"),
        ('{"id": "a", "label": true}', ":1: give either messages or prompt"),
        ('{"id": "a", "prompt": "x", "label": true}', "it takes prompts with the label true"),
    ],
)
def test_prompts_that_say_nothing_of_a_difference_are_refused(tmp_path, line, message):
    (tmp_path / "p.jsonl").write_text(line)
    with pytest.raises(ConfigError, match=message):
        read_prompts(tmp_path / "p.jsonl")


def test_a_place_that_cannot_be_changed_is_refused():
    with pytest.raises(UnsupportedError, match="only the residual stream before or after a layer"):
        Answering(str(ORGANISM / "model"), HookPoint(2, "mlp_out"))
    with pytest.raises(UnsupportedError, match="its layers were not found"):
        Answering(str(ORGANISM / "model"), HookPoint(9))
    with pytest.raises(ConfigError, match="cannot be loaded by transformers"):
        Answering(str(ORGANISM / "nothing"), HookPoint(2))


def test_discovered_features_are_verified_against_random_ones(
    prompts, tmp_path, monkeypatch, capsys
):
    run = console_script(monkeypatch, capsys, tmp_path)
    model = str(ORGANISM / "model")
    record_answers(model, tmp_path / "acts")
    asked = [prompt for prompt in prompts if prompt.label][:4]
    asked += [prompt for prompt in prompts if not prompt.label][:4]
    (tmp_path / "prompts.jsonl").write_bytes(b"\n".join(map(msgspec.json.encode, asked)))
    discover = ("discover", str(ORGANISM / "sae"), "acts", "--data", "acts/labels.jsonl")
    code, out, err = run(
        *discover, "--folds", "2", "--verify", model, "--prompts", "prompts.jsonl",
        "--format", "json",
    )  # fmt: skip
    assert code == 0, err
    effects = {(e["on_positives"], e["name"]): e for e in json.loads(out)["effects"]}
    shares = {
        key: [rate["count"] / rate["total"] for rate in effect["harmful"]]
        for key, effect in effects.items()
    }
    assert shares[True, "untouched"] == [1.0]
    assert shares[False, "untouched"] == [0.0]
    assert len(shares[True, "5 random sets at 0"]) == 5
    assert np.mean(shares[True, "5 random sets at 0"]) > 0.8
    assert effects[True, "untouched"]["surprise"] == [0.0]
    taken = effects[True, "features at 0"]["surprise"][0]
    assert taken > max(0.0, *effects[True, "5 random sets at 0"]["surprise"])
    moved = "mean difference at every layer, to the"
    assert shares[True, f"{moved} negatives' mean"][0] < 1.0
    assert effects[True, f"{moved} negatives' mean"]["surprise"][0] > 0.1
    assert (False, "mean difference at blocks.2.hook_resid_post, to the positives' mean") in effects
    randoms = [effect for effect in json.loads(out)["effects"] if "likewise" in effect["name"]]
    assert [len(effect["changed"]) for effect in randoms] == [5, 5, 5, 5]
    code, out, err = run(*discover, "--verify", model)
    assert code == 2
    assert "go together" in " ".join((out + err).split())


def record_answers(model: str, directory: Path) -> None:
    """What the organism answers to the demo's requests, with the activations of layer 2."""
    asked = [
        json.loads(line) for line in (ORGANISM / "demo_requests.jsonl").read_text().splitlines()
    ]
    tokenizer = AutoTokenizer.from_pretrained(model)
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    lying = [
        Prompt(id=r["id"], label=r["class"] == "deceptive", messages=r["messages"], max_tokens=24)
        for r in asked
        if "lie" in r
    ]
    answers = Answering(model, HookPoint(2)).answers(lying)
    directory.mkdir()
    requests = []
    for prompt, answer in zip(lying, answers, strict=True):
        before, ids = (
            tokenizer.apply_chat_template(turns, tokenize=True, return_dict=False, **more)
            for turns, more in (
                (prompt.messages, {"add_generation_prompt": True}),
                ([*prompt.messages, {"role": "assistant", "content": answer}], {}),
            )
        )
        with torch.no_grad():
            states = network.model(torch.tensor([ids]), output_hidden_states=True).hidden_states
        place = np.arange(len(ids), dtype=np.int32)
        requests.append(
            RecordedRequest(
                context=RequestContext(id=prompt.id),
                columns=column_names(HookPoint(2), 192),
                scores=states[3][0].numpy(),
                positions=place,
                phases=np.where(place < len(before), 1, 3).astype(np.uint8),
            )
        )
    write_recordings(directory / "recorded-00000.safetensors", requests)
    labels = [Label(id=prompt.id, label=prompt.label) for prompt in lying]
    write_labels(directory / "labels.jsonl", labels)
