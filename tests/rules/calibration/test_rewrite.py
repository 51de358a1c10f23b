"""A threshold is set in the file, and nothing else of the file changes."""

from __future__ import annotations

from pathlib import Path

import pytest
from calibration_data import RULES, load

from saeguard.rules import load_rules
from saeguard.rules.calibration.rewrite import CannotRewrite, set_threshold


def rewritten(directory: Path, text: str, threshold: float = 4.25) -> str:
    rule = load(directory, text).rules[0]
    return set_threshold(text, directory / "rules.yaml", rule, rule.signals[0], threshold)


def test_comments_order_and_style_stay(tmp_path: Path):
    after = rewritten(tmp_path, RULES)
    assert after == RULES.replace("gte: 3.0", "gte: 4.25")
    assert load(tmp_path, after).rules[0].signals[0].threshold == 4.25


def test_a_threshold_in_block_style_is_found(tmp_path: Path):
    signal = "lie:\n        feature: lie\n        agg: value\n        gte: 3.0  # why"
    text = RULES.replace("lie: {feature: lie, agg: max, window: 4 tokens, gte: 3.0}", signal)
    assert rewritten(tmp_path, text) == text.replace("gte: 3.0  # why", "gte: 4.25  # why")


def test_a_part_of_a_maximum_becomes_a_number(tmp_path: Path):
    text = RULES.replace("gte: 3.0", "gte: 30% of max")
    assert rewritten(tmp_path, text) == RULES.replace("gte: 3.0", "gte: 4.25")


@pytest.mark.parametrize("threshold", [1e-9, 123456.7, -0.5])
def test_what_is_written_is_read_as_the_same_number(tmp_path: Path, threshold: float):
    after = rewritten(tmp_path, RULES, threshold)
    assert load(tmp_path, after).rules[0].signals[0].threshold == threshold


def test_characters_of_several_bytes_shift_nothing(tmp_path: Path):
    text = RULES.replace("A lie", "Eine Lüge 🦊")
    assert rewritten(tmp_path, text) == text.replace("gte: 3.0", "gte: 4.25")


def test_a_number_under_an_anchor_elsewhere_is_not_touched(tmp_path: Path):
    text = RULES.replace(
        "version: 1\n", "version: 1\nx-lie: &lie {feature: lie, agg: value, gte: 3}\n", 1
    )
    text = text.replace("{feature: lie, agg: max, window: 4 tokens, gte: 3.0}", "*lie")
    with pytest.raises(CannotRewrite, match=r"rules\.yaml:16:7: signals\.lie\.gte of lying is "):
        rewritten(tmp_path, text)


def test_a_number_that_an_overlay_sets_is_not_touched(tmp_path: Path):
    (tmp_path / "over.yaml").write_text(
        "version: 1\nruleset: {name: site, version: 1.0.0}\noverlays:\n"
        "  - {rule: lying, set: {signals.lie.gte: 5.0}}\n"
    )
    (tmp_path / "rules.yaml").write_text(RULES)
    rule = load_rules([tmp_path / "rules.yaml", tmp_path / "over.yaml"]).rules[0]
    with pytest.raises(
        CannotRewrite, match=r"over\.yaml:4:.*: this overlay sets signals\.lie\.gte"
    ):
        set_threshold(RULES, tmp_path / "rules.yaml", rule, rule.signals[0], 4.0)
