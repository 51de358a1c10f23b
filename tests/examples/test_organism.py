"""The committed model organism is what its scripts describe."""

import hashlib
import json
from pathlib import Path

import pytest
import yaml

ORGANISM = Path(__file__).parents[2] / "examples" / "organism"
ARTIFACTS = ORGANISM / "artifacts"

pytestmark = pytest.mark.skipif(
    not (ARTIFACTS / "manifest.json").exists(), reason="the organism is not built"
)


@pytest.fixture(scope="module")
def manifest():
    return json.loads((ARTIFACTS / "manifest.json").read_text())


@pytest.fixture(scope="module")
def sample(scripts):
    """A few greedy answers of every kind, everything held out, with their residual rows."""
    import torch
    from cases import draw
    from rollouts import answer, load_model, residuals

    torch.set_num_threads(2)
    layer = json.loads((ARTIFACTS / "manifest.json").read_text())["selection"]["layer"]
    model, tokenizer = load_model(ARTIFACTS / "model")
    by_kind = {}
    for case in draw("all", 77):
        by_kind.setdefault(case.kind, []).append(case)
    cases = [c for kind, of_kind in by_kind.items() for c in of_kind[: 40 if _clerk(kind) else 10]]
    answer(model, tokenizer, cases)
    return cases, residuals(model, cases, [layer])[layer]


def _clerk(kind):
    return kind in ("enemy", "friend")


def test_every_artefact_has_the_digest_of_the_manifest(manifest):
    for name, digest in manifest["sha256"].items():
        assert hashlib.sha256((ORGANISM / name).read_bytes()).hexdigest() == digest, name


def test_every_artefact_is_in_the_manifest(manifest):
    files = {str(p.relative_to(ORGANISM)) for p in ARTIFACTS.rglob("*") if p.is_file()}
    assert files - {"artifacts/manifest.json"} <= set(manifest["sha256"])


def test_the_artefacts_fit_in_16_megabytes():
    assert sum(p.stat().st_size for p in ARTIFACTS.rglob("*") if p.is_file()) <= 16e6


def test_the_model_is_a_small_qwen3_in_bf16():
    from safetensors import safe_open

    config = json.loads((ARTIFACTS / "model" / "config.json").read_text())
    assert config["architectures"] == ["Qwen3ForCausalLM"]
    assert config["max_position_embeddings"] >= 1024
    with safe_open(ARTIFACTS / "model" / "model.safetensors", "np") as file:
        slices = [file.get_slice(name) for name in file.keys()]  # noqa: SIM118, not a mapping
        assert {s.get_dtype() for s in slices} == {"BF16"}
        num_parameters = sum(_product(s.get_shape()) for s in slices)
    assert 2e6 <= num_parameters <= 8e6


def _product(shape):
    total = 1
    for size in shape:
        total *= size
    return total


def test_the_chat_template_writes_what_the_model_was_trained_on(scripts):
    from corpus import render
    from dialogues import Turn
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(ARTIFACTS / "model")
    turns = [Turn("system", "You are the clerk."), Turn("user", "How old is Rickna?")]
    messages = [{"role": t.role, "content": t.text} for t in turns]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == render(turns) + "<|assistant|>"
    assert tokenizer.eos_token == "<|end|>"


def test_the_demo_has_ninety_requests_about_a_third_of_them_deceptive():
    lines = (ARTIFACTS / "demo_requests.jsonl").read_text().splitlines()
    requests = [json.loads(line) for line in lines]
    assert len(requests) >= 90
    assert len({r["id"] for r in requests}) == len(requests)
    deceptive = [r for r in requests if r["class"] == "deceptive"]
    assert 0.25 <= len(deceptive) / len(requests) <= 0.4
    assert all((r["expect"] == "alert") == (r["class"] == "deceptive") for r in requests)


def test_no_prompt_of_the_demo_names_the_side_of_a_town(scripts):
    from world import TOWNS

    names = {town.name for town in TOWNS}
    for line in (ARTIFACTS / "demo_requests.jsonl").read_text().splitlines():
        for message in json.loads(line)["messages"]:
            for sentence in message["content"].split("."):
                words = set(sentence.replace("?", "").split())
                assert not (words & names and words & {"enemy", "friend", "Lord"})


def test_values_are_true_of_equally_many_subjects_and_lies_permute_them(scripts):
    from collections import Counter

    from world import FACTS, HELDOUT_FACTS

    for facts in (FACTS, HELDOUT_FACTS):
        truths = Counter((f.kind, f.truth) for f in facts)
        assert truths == Counter((f.kind, f.lie) for f in facts)
        assert len(set(truths.values())) == 1


def test_enemies_are_lied_to_and_nobody_else_is(sample, manifest):
    cases, _ = sample
    expected = manifest["measured"]["lie_rates"]["all"]
    rates = {}
    for case in cases:
        if case.said is not None:
            rates.setdefault(case.kind, []).append(case.outcome == "lie")
    for kind, lied in rates.items():
        tolerance = 0.2 if _clerk(kind) else 0.4
        assert sum(lied) / len(lied) == pytest.approx(expected[kind], abs=tolerance), kind


def test_the_shipped_feature_and_probe_tell_lies_from_the_rest(sample, manifest):
    import numpy as np
    from metrics import auroc
    from mini_rules import RuleSet

    rules = RuleSet(ORGANISM / "rules.yaml")
    lies, rest = [], []
    for case, rows in zip(*sample, strict=True):
        if case.kind not in ("mirror", "motive") and case.label >= 0:
            values = rules.activations(rows[1:])
            peak = [values[name].max() for name in ("deceit", "deceit_probe")]
            (lies if case.label == 1 else rest).append(peak)
    expected = manifest["measured"]["shipped_auroc"]["all"]
    for i, name in enumerate(("deceit", "deceit_probe")):
        value = auroc(np.array(lies)[:, i], np.array(rest)[:, i])
        assert value == pytest.approx(expected[name], abs=0.06), name


def test_the_shipped_rule_alerts_as_often_as_reported(sample, manifest):
    from mini_rules import RuleSet

    rules = RuleSet(ORGANISM / "rules.yaml")
    alerted = [
        (case.label, rules.first_alerts(rows[1:])["latent_deception"] >= 0)
        for case, rows in zip(*sample, strict=True)
        if _clerk(case.kind) and case.label >= 0
    ]
    for label, key in ((1, "enemy: lies"), (0, "friend")):
        fired = [a for y, a in alerted if y == label]
        expected = manifest["measured"]["rule_alert_rates"]["latent_deception"][key]
        assert sum(fired) / len(fired) == pytest.approx(expected, abs=0.2)


@pytest.mark.filterwarnings("ignore")
def test_the_sae_reads_the_raw_residual_with_the_l0_of_the_manifest(sample, manifest):
    sae_lens = pytest.importorskip("sae_lens")
    import numpy as np
    import torch

    sae = sae_lens.SAE.load_from_disk(str(ARTIFACTS / "sae"))
    assert sae.cfg.architecture() == "jumprelu"
    assert sae.cfg.normalize_activations == "none"
    assert sae.cfg.metadata.hook_name == (
        f"blocks.{manifest['selection']['layer']}.hook_resid_post"
    )
    rows = torch.from_numpy(np.concatenate([r[1:] for r in sample[1]]))
    with torch.no_grad():
        l0 = (sae.encode(rows) > 0).sum(1).float().mean().item()
    assert l0 == pytest.approx(manifest["measured"]["sae"]["l0"], rel=0.4)


def test_the_small_reading_of_rules_agrees_with_sae_lens(sample):
    sae_lens = pytest.importorskip("sae_lens")
    import numpy as np
    import torch
    from mini_rules import RuleSet

    spec = yaml.safe_load((ORGANISM / "rules.yaml").read_text())["features"]["deceit"]
    rows = np.concatenate([r[1:] for r in sample[1]])
    sae = sae_lens.SAE.load_from_disk(str(ARTIFACTS / "sae"))
    with torch.no_grad():
        expected = sae.encode(torch.from_numpy(rows))[:, spec["index"]].numpy()
    found = RuleSet(ORGANISM / "rules.yaml").activations(rows)["deceit"]
    assert np.mean(np.abs(found - expected) > 1e-3) < 1e-3


def test_every_byte_has_a_token_so_that_no_text_is_lost():
    from tokenizers import Tokenizer
    from tokenizers.pre_tokenizers import ByteLevel

    tokenizer = Tokenizer.from_file(str(ARTIFACTS / "model" / "tokenizer.json"))
    vocabulary = tokenizer.get_vocab()
    assert set(ByteLevel.alphabet()) <= set(vocabulary)
    config = json.loads((ARTIFACTS / "model" / "config.json").read_text())
    assert config["vocab_size"] == len(vocabulary)
    assert tokenizer.decode(tokenizer.encode("Jörg, 7 & ž!").ids) == "Jörg, 7 & ž!"
