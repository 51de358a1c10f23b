"""`saeguard explain`: which rules it explains, and what it says when it cannot."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from saeguard.monitor.cli import main

RULES = Path(__file__).parents[1] / "rules" / "explained" / "rules.yaml"


@pytest.fixture
def explain(monkeypatch, capsys):
    """Runs `saeguard explain`: exit code, stdout, stderr."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["saeguard", "explain", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code or 0, *capsys.readouterr()

    return run


@pytest.mark.parametrize("rule", ["campaign", "00000000-0000-0000-0000-000000000004"])
def test_a_rule_is_found_by_name_and_by_id(explain, rule):
    code, out, _ = explain(rule, RULES)
    assert code == 0
    assert out.startswith("campaign: Repeated deception by one tenant\n")
    assert "lie_then_claim" not in out


def test_all_rules_are_explained_when_asked(explain):
    code, out, _ = explain("--all", RULES)
    headings = [line for line in out.splitlines() if line.startswith("What it watches")]
    assert (code, len(headings)) == (0, 6)


def test_a_rule_that_is_not_there_gets_a_suggestion(explain):
    code, out, err = explain("campain", RULES)
    assert (code, out) == (2, "")
    assert "there is no rule 'campain', did you mean 'campaign'?" in err


def test_wrong_rules_are_said_with_their_place(explain, tmp_path):
    path = tmp_path / "rules.yaml"
    path.write_text("version: 2\n")
    code, out, err = explain("campaign", path)
    assert (code, out) == (2, "")
    assert f"{path}:1:10: version: " in err


@pytest.mark.parametrize("arguments", [("campaign",), ("campaign", "nowhere.yaml")])
def test_missing_files_are_wrong_usage(explain, arguments):
    code, out, err = explain(*arguments)
    assert (code, out) == (2, "")
    assert "Invalid value" in err
