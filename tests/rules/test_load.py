"""What loading yields, from one file and from several."""

import hashlib
import pickle

import pytest

from saeguard.rules import (
    Location,
    Phase,
    ProbeFeature,
    RouterFeature,
    SaeFeature,
    load_rules,
)
from saeguard.rules.model import Aggregate
from tests.rules.samples import ORGANISM, edited, findings


def test_example_file_loads_with_every_value_in_its_place():
    ruleset = load_rules([ORGANISM])
    (rule,) = ruleset.rules
    assert (ruleset.name, ruleset.version) == ("organism", "1.0.0")
    assert (rule.name, rule.status, rule.severity) == ("latent_deception", "test", "high")
    assert (rule.for_tokens, rule.max_per_request) == (2, 1)
    assert rule.scope.phases == {Phase.ANSWER}
    assert rule.location == Location(ORGANISM, 8, 5)
    assert [signal.aggregate for signal in rule.signals] == [
        Aggregate(("deceit",), "max", tokens=16),
        Aggregate(("deceit",), "count", tokens=32, over=2.0),
        Aggregate(("deceit",), "mean", tokens=8),
        Aggregate(("deceit_probe",), "value"),
        Aggregate(("deceit",), "ema", tokens=8),
    ]
    assert [signal.comparison for signal in rule.signals] == ["gte", "gte", "gt", "gte", "gte"]


def test_features_know_their_source_and_where_they_are_defined():
    features = load_rules([ORGANISM]).features
    folder = ORGANISM.parent.resolve()
    assert features["deceit"].source == SaeFeature(folder / "artifacts/sae", 412)
    assert features["deceit_probe"].source == ProbeFeature(
        folder / "artifacts/probe.safetensors", "deceit"
    )
    assert features["deceit_probe"].location == Location(ORGANISM, 6, 3)


def test_an_expert_is_scored_by_its_weight_unless_its_logit_is_asked_for(tmp_path):
    router = "{router: {layer: 3}, expert: 7"
    more = f"features:\n  weight: {router}}}\n  logit: {router}, units: logit}}\n"
    features = load_rules([edited(tmp_path, ("features:\n", more))]).features
    assert [features[name].units for name in ("weight", "logit")] == ["weight", "logit"]
    assert features["weight"].source == features["logit"].source == RouterFeature(3, 7)


def test_digest_is_that_of_the_file():
    expected = hashlib.sha256(ORGANISM.read_bytes()).hexdigest()
    assert load_rules([ORGANISM]).sha256 == expected


def test_ruleset_survives_pickling():
    ruleset = load_rules([ORGANISM])
    assert pickle.loads(pickle.dumps(ruleset)) == ruleset


def test_optional_keys_have_defaults(tmp_path):
    path = edited(
        tmp_path,
        ("    scope: {phase: [answer]}\n", ""),
        ("    for: 2 tokens\n    limit: {per: request, max: 1}\n", ""),
        ("    description: The model is about to mislead its user.\n", ""),
        ("    message: ", "    description: "),
    )
    (rule,) = load_rules([path]).rules
    assert rule.scope.phases == {Phase.REASONING, Phase.ANSWER}
    assert (rule.for_tokens, rule.max_per_request, rule.message.text) == (1, 1, "{rule.title}")


def test_unused_features_are_fine_and_not_among_the_used_ones(tmp_path):
    path = edited(tmp_path, ("features:\n", "features:\n  spare: {sae: *sae, index: 1}\n"))
    assert load_rules([path]).used_features() == ("deceit", "deceit_probe")


def test_rules_may_use_features_of_another_file(tmp_path):
    text = ORGANISM.read_text()
    cut = text.index("rules:")
    head = text[: text.index("x-sae")]
    (tmp_path / "features.yaml").write_text(text[:cut])
    (tmp_path / "rules.yaml").write_text(head + text[cut:])
    ruleset = load_rules([tmp_path / "rules.yaml", tmp_path / "features.yaml"])
    assert ruleset.used_features() == ("deceit", "deceit_probe")
    assert ruleset.name == "organism"


def test_a_missing_file_hides_no_other_mistake_and_causes_none(tmp_path):
    path = edited(
        tmp_path,
        ("  deceit: {sae: *sae, index: 412", "  other: {sae: *sae, index: 1"),
        ("lie and (", "block_of_the_missing_file and andd ("),
    )
    found = findings(tmp_path / "missing.yaml", path)
    assert [each.split(" ")[0] for each in found] == ["1:1:", "21:51:"]


def test_ids_and_names_are_unique_across_files(tmp_path):
    first, second = (edited(tmp_path, name=name) for name in ("a.yaml", "b.yaml"))
    rule_id = load_rules([first]).rules[0].id
    assert findings(first, second) == [
        f"8:9: id {rule_id!r} is already taken by the rule at {first}:8:9",
        f"9:11: name 'latent_deception' is already taken by the rule at {first}:9:11",
    ]


def test_a_feature_defined_twice_must_be_the_same(tmp_path):
    first = edited(tmp_path, name="a.yaml")
    other_rule = [("7d1c0c1e", "00000000"), ("latent_deception", "other")]
    same = edited(tmp_path, *other_rule, name="b.yaml")
    different = edited(tmp_path, *other_rule, ("index: 412", "index: 413"), name="c.yaml")
    assert len(load_rules([first, same]).rules) == 2
    assert findings(first, different) == [f"5:3: feature 'deceit' differs from {first}:5:3"]


def test_a_set_without_rules_is_refused(tmp_path):
    path = tmp_path / "rules.yaml"
    path.write_text("version: 1\nruleset: {name: a, version: b}\n")
    assert findings(path) == ["1:1: no rules in the file(s)"]


def test_no_paths_are_a_programming_error():
    with pytest.raises(ValueError, match="no rule files"):
        load_rules([])
