"""The shipped packs: rules that load, do what they say, and can be bound to any model."""

from __future__ import annotations

import itertools
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from saeguard.monitor.cli.check_report import check_rules
from saeguard.rules import RuleErrors, load_rules
from saeguard.rules.mappings import packs, read_pack, releases, template
from saeguard.rules.testing.files import find_test_files, run_files, total_coverage

FOLDER = Path(__file__).with_name("packs")
MAPPING = FOLDER / "mapping.yaml"
ORGANISM = Path(__file__).parents[2] / "examples" / "organism" / "packs" / "mapping.yaml"
NAMES = [pack.name for pack in packs()]
ITEMS = [f"pack:{name}" for name in NAMES]


def problems(*items):
    return check_rules([str(item) for item in items], datetime.now(UTC).date()).problems


def test_there_are_packs_of_eight_harms():
    assert {"deception", "jailbreak_acceptance", "refusal", "secret_leak"} < set(NAMES)
    assert len(NAMES) == 8


@pytest.mark.parametrize("item", ITEMS)
def test_lints_have_nothing_to_say_about_a_pack(item):
    assert problems(item, MAPPING) == []


def test_all_packs_load_together():
    assert problems(*ITEMS, MAPPING) == []


def test_what_several_packs_need_means_the_same_in_all_of_them():
    meanings = {}
    for pack in packs():
        for feature, meaning in pack.needs.items():
            assert meanings.setdefault(feature, meaning) == meaning, f"{pack.name}: {feature}"


def test_packs_are_experimental_and_say_what_else_sets_them_off():
    for rule in load_rules([*ITEMS, MAPPING]).rules:
        assert rule.status == "experimental"
        if rule.emit:
            assert rule.falsepositives
            assert any(tag.startswith("harm.") for tag in rule.tags)


def test_thresholds_are_parts_of_a_maximum_so_that_they_fit_any_model():
    ruleset = load_rules([*ITEMS, MAPPING])
    for rule in ruleset.rules:
        for signal in rule.signals:
            assert signal.written.endswith("of max") or signal.aggregate.kind == "count", (
                signal.name
            )


def test_tests_of_the_packs_pass_and_show_every_rule_and_signal_both_ways():
    files = list(run_files(find_test_files([FOLDER])))
    assert not any(file.failed for file in files)
    assert list(map(str, total_coverage(files).missing)) == []


@pytest.mark.parametrize("item", ITEMS)
def test_pack_without_mapping_says_which_features_it_needs_and_how_to_bind_them(item):
    with pytest.raises(RuleErrors) as caught:
        load_rules([item])
    pack = read_pack(item.removeprefix("pack:"))
    assert len(caught.value.errors) == len(pack.needs)
    for error in caught.value.errors:
        assert "and no file defines it; add a mapping file" in error.message
        assert "`saeguard packs mapping` prints one" in error.message


def test_organism_binds_all_that_four_packs_need():
    four = ["pack:deception", "pack:refusal", "pack:secret_leak", "pack:sycophancy"]
    assert problems(*four, ORGANISM) == []


@pytest.mark.parametrize("release", releases())
def test_template_loads_once_it_is_filled_in(release, tmp_path):
    text = template(release, packs())
    path = tmp_path / "mapping.yaml"
    numbers = itertools.count(1)
    path.write_text(re.sub("FILL_IN(?=,)", lambda _: str(next(numbers)), text))
    assert problems(*ITEMS, path) == []


@pytest.mark.parametrize("release", releases())
def test_template_says_what_is_still_to_be_filled_in(release, tmp_path):
    path = tmp_path / "mapping.yaml"
    path.write_text(template(release, packs()))
    found = problems(*ITEMS, path)
    needed = {feature for pack in packs() for feature in pack.needs}
    assert len(found) == 2 * len(needed)
    assert all("still to be filled in; the comments" in each.message for each in found)
