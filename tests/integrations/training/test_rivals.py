"""A probe against features of an SAE, and against rules."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import activation_data
import numpy as np
import pytest
from console_script import console_script
from safetensors.numpy import save_file

from saeguard.integrations.training.metrics import difference, estimate
from saeguard.rules.calibration.ranking import Ranking

Run = Callable[..., tuple[int, str, str]]

RULES = """
version: 1
ruleset: {name: old, version: 1.0.0}
features:
  lie: {sae: {path: sae}, index: 0, label: x}
  noise: {sae: {path: sae}, index: 5, label: x}
rules:
  - id: 00000000-0000-4000-8000-000000000001
    name: old_lies
    title: A lie
    status: test
    severity: high
    scope: {phase: [answer]}
    signals:
      lie: {feature: lie, agg: max, window: 4 tokens, gte: 3.0}
      noise: {feature: noise, agg: max, window: 4 tokens, gte: 50.0}
    condition: lie and not noise
    message: "a lie"
    falsepositives: []
"""


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    return console_script(monkeypatch, capsys, tmp_path)


def make_sae(directory: Path, knows: bool, hook: str = activation_data.LATE) -> None:
    """32 features; the first is the direction of lies, or like the others a random one."""
    directory.mkdir()
    encoder = np.random.default_rng(0).normal(size=(activation_data.WIDTH, 32)) / 10
    if knows:
        encoder[:, 0] = 0.0
        encoder[1:3, 0] = 2.0, -2.0
    tensors = {
        "W_enc": encoder.astype(np.float32),
        "b_enc": np.zeros(32, np.float32),
        "W_dec": np.ascontiguousarray(encoder.T, np.float32),
        "b_dec": np.zeros(activation_data.WIDTH, np.float32),
    }
    save_file(tensors, directory / "sae_weights.safetensors")
    about = {
        "architecture": "standard",
        "d_in": activation_data.WIDTH,
        "d_sae": 32,
        "metadata": {"hook_name": hook},
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "dtype": "float32",
    }
    (directory / "cfg.json").write_text(json.dumps(about))


def compared(run: Run, tmp_path: Path, *more: str) -> dict[str, object]:
    activation_data.write(tmp_path / "acts", activation_data.examples(100, num_groups=50))
    arguments = ("acts", "--data", "acts/labels.jsonl", "-o", "lies.safetensors", "--folds", "3")
    code, out, err = run("train-probe", *arguments, "--format", "json", *more)
    assert code == 0, err
    return json.loads(out)["comparison"]


def test_a_probe_is_better_than_an_sae_that_lacks_the_feature(run: Run, tmp_path: Path):
    make_sae(tmp_path / "sae", knows=False)
    found = compared(run, tmp_path, "--against", "sae")
    assert found["auroc_gain"]["low"] > 0
    assert found["figures"]["auroc"]["value"] + found["auroc_gain"]["value"] > 0.95
    draft = (tmp_path / "lies.yaml").read_text()
    assert "# Better here: the linear probe, with an AUROC of" in draft


def test_an_sae_that_has_the_feature_is_better_than_a_mean_difference(run: Run, tmp_path: Path):
    """Which wastes itself on coordinates that are loud and say nothing."""
    make_sae(tmp_path / "sae", knows=True)
    found = compared(run, tmp_path, "--against", "sae", "--kind", "mean-difference")
    assert found["chosen"].startswith("features 0")
    assert found["auroc_gain"]["high"] < 0
    assert "# Better here: the best features of sae" in (tmp_path / "lies.yaml").read_text()


def test_a_rule_is_judged_by_all_thresholds_of_its_signal(run: Run, tmp_path: Path):
    make_sae(tmp_path / "sae", knows=True)
    (tmp_path / "old.yaml").write_text(RULES)
    found = compared(run, tmp_path, "--against", "old.yaml")
    assert found["chosen"] == "old_lies, by the threshold of lie"
    assert found["figures"]["auroc"]["value"] > 0.9
    assert found["caveat"]


@pytest.mark.parametrize(
    ("against", "said"),
    [
        (("--against", "sae"), "the SAE reads blocks.7.hook_resid_post, which is not among what"),
        (("--against", "old.yaml"), "is read at blocks.7.hook_resid_post, which was not captured"),
        (("--against", "old.yaml", "--against-rule", "older"), "no rule 'older' with signals"),
        (("--against", "old.yaml", "--against-rule", "old_lies:noise"), "the threshold of 'noise'"),
    ],
)
def test_what_cannot_be_compared_is_said(
    run: Run, tmp_path: Path, against: tuple[str, ...], said: str
):
    make_sae(tmp_path / "sae", knows=True, hook="blocks.7.hook_resid_post")
    (tmp_path / "old.yaml").write_text(RULES)
    activation_data.write(tmp_path / "acts", activation_data.examples(40))
    arguments = ("acts", "--data", "acts/labels.jsonl", "--folds", "3", "--kind", "mean-difference")
    code, _, err = run("train-probe", *arguments, *against)
    assert (code, said in err) == (2, True), err


def test_of_a_detector_with_itself_no_difference_is_seen():
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 2 == 0
    groups = [f"g{i // 4}" for i in range(200)]
    ranking = Ranking.of(rng.normal(size=200) + labels, labels)
    gain = difference(lambda weight: ranking.auroc(weight) - ranking.auroc(weight), groups)
    assert (gain.value, gain.low, gain.high) == (0.0, 0.0, 0.0)


def test_requests_of_one_group_count_as_one_in_intervals():
    rng = np.random.default_rng(0)
    labels = np.arange(400) % 2 == 0
    scores = (rng.normal(size=20) + labels[:20]).repeat(20)
    labels = labels[:20].repeat(20)
    ranking = Ranking.of(scores, labels)
    widths = [
        (found := estimate(ranking.auroc, labels, groups)).high - found.low
        for groups in ([f"g{i // 20}" for i in range(400)], [f"r{i}" for i in range(400)])
    ]
    assert widths[0] > 2 * widths[1]
