"""A set consists of files, directories and packs."""

import hashlib
import os
from pathlib import Path

import pytest

from saeguard.rules import RuleErrors, load_rules
from saeguard.rules.loading import sources
from tests.rules.samples import ORGANISM, edited, findings

PACK = """
version: 1
ruleset: {name: little, version: '1'}
needs: {lie: "the model is about to mislead its user"}
rules:
  - id: 00000000-0000-4000-8000-000000000001
    name: lies
    title: Lies
    status: test
    severity: low
    signals:
      now: {feature: lie, agg: value, gte: 40% of max}
    condition: now
"""
MAPPING = """
version: 1
ruleset: {name: mapping, version: '2'}
features:
  lie: {sae: {path: sae}, index: 4, max: 10.0}
"""


@pytest.fixture
def packs(tmp_path, monkeypatch) -> Path:
    """A folder of packs, with the pack `little`."""
    folder = tmp_path / "packs"
    folder.mkdir()
    (folder / "little.yaml").write_text(PACK)
    monkeypatch.setattr(sources, "PACKS", folder)
    return folder


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_directory_stands_for_its_visible_yaml_files_by_name(tmp_path):
    other = [("7d1c0c1e", "00000000"), ("latent_deception", "other")]
    edited(tmp_path, name="b.yaml")
    edited(tmp_path, *other, name="a.yml")
    write(tmp_path / "..data.yaml", "not a rule file")
    write(tmp_path / "notes.txt", "not a rule file")
    (tmp_path / "more.yaml").mkdir()
    write(tmp_path / "more.yaml" / "c.yaml", "not looked at")
    ruleset = load_rules([tmp_path])
    assert [rule.name for rule in ruleset.rules] == ["other", "latent_deception"]
    contents = (tmp_path / "a.yml").read_bytes() + (tmp_path / "b.yaml").read_bytes()
    assert ruleset.sha256 == hashlib.sha256(contents).hexdigest()


def test_mounted_configmap_is_read_through_its_links(tmp_path):
    data = tmp_path / "..2026_11_21"
    data.mkdir()
    edited(data)
    (tmp_path / "..data").symlink_to(data.name)
    (tmp_path / "rules.yaml").symlink_to("..data/rules.yaml")
    (rule,) = load_rules([tmp_path]).rules
    assert rule.location.path == tmp_path / "rules.yaml"


def test_broken_link_is_a_finding(tmp_path):
    edited(tmp_path)
    (tmp_path / "z.yaml").symlink_to("nowhere")
    assert findings(tmp_path) == ["1:1: No such file or directory"]


def test_links_in_a_circle_are_a_finding(tmp_path):
    edited(tmp_path)
    (tmp_path / "y.yaml").symlink_to("z.yaml")
    (tmp_path / "z.yaml").symlink_to("y.yaml")
    assert set(findings(tmp_path)) == {"1:1: Too many levels of symbolic links"}


def test_a_pipe_in_a_directory_is_refused_and_not_waited_for(tmp_path):
    edited(tmp_path)
    os.mkfifo(tmp_path / "z.yaml")
    assert findings(tmp_path) == ["1:1: not a regular file"]


def test_suffixes_may_be_in_capitals(tmp_path):
    edited(tmp_path, name="RULES.YAML")
    assert len(load_rules([tmp_path]).rules) == 1


def test_file_named_twice_counts_once(tmp_path):
    path = edited(tmp_path)
    assert load_rules([tmp_path, path, str(path)]) == load_rules([path])


def test_items_may_be_texts():
    assert load_rules([str(ORGANISM)]) == load_rules([ORGANISM])


def test_pack_takes_its_features_from_a_mapping_file(packs, tmp_path):
    mapping = write(tmp_path / "mapping.yaml", MAPPING)
    ruleset = load_rules(["pack:little", mapping])
    assert (ruleset.name, ruleset.version) == ("little+mapping", "1+2")
    assert ruleset.rules[0].signals[0].threshold == 4.0


def test_pack_without_a_mapping_says_what_to_add(packs):
    assert findings("pack:little") == [
        "4:9: the rules of 'little' need the feature 'lie' (the model is about to mislead its "
        "user), and no file defines it; add a mapping file with `features: {lie: ...}`"
    ]


def test_a_need_is_said_once_however_often_it_is_used(packs):
    text = PACK.replace("condition: now", "condition: now or then").replace(
        "signals:\n", "signals:\n      then: {feature: lie, agg: value, gt: 1}\n"
    )
    (packs / "little.yaml").write_text(text)
    assert len(findings("pack:little")) == 1


def test_unknown_pack_is_refused_with_the_list_of_packs(packs):
    with pytest.raises(RuleErrors) as caught:
        load_rules(["pack:litle"])
    assert str(caught.value) == (
        "pack:litle:1:1: unknown pack 'litle', did you mean 'little'?; the packs are little"
    )


@pytest.mark.parametrize("name", ["../packs/little", "little.yaml", "", "/etc/passwd"])
def test_pack_name_is_no_path(packs, name):
    with pytest.raises(RuleErrors, match="unknown pack"):
        load_rules([f"pack:{name}"])


def test_mapping_may_not_define_a_feature_differently_than_another(packs, tmp_path):
    first = write(tmp_path / "a.yaml", MAPPING)
    second = write(tmp_path / "b.yaml", MAPPING.replace("index: 4", "index: 5"))
    assert findings("pack:little", first, second) == [
        f"5:3: feature 'lie' differs from {first}:5:3"
    ]


def test_overlay_may_have_a_packs_rule_read_another_feature(packs, tmp_path):
    text = MAPPING + "  other: {sae: {path: sae}, index: 9, max: 1.0}\n"
    text += "overlays:\n  - {rule: lies, set: {signals.now.feature: other}}\n"
    ruleset = load_rules(["pack:little", write(tmp_path / "mapping.yaml", text)])
    assert ruleset.used_features() == ("other",)
