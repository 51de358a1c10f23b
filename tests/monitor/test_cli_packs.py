"""`saeguard packs`: which packs there are, and a mapping file for some."""

from __future__ import annotations

import sys

import pytest
import yaml

from saeguard.monitor.cli import main
from saeguard.monitor.cli.packs import Release
from saeguard.rules.mappings import releases


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs `saeguard packs`: exit code, stdout, stderr."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["saeguard", "packs", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code or 0, *capsys.readouterr()

    return run


def test_list_shows_rules_and_needs(run):
    code, out, _ = run("list")
    assert code == 0
    assert "pack:refusal\n  A harmful request is declined\n" in out
    assert "  needs refusal, harmful_request\n" in out


def test_mapping_has_an_entry_for_everything_that_the_packs_need(run):
    code, out, _ = run("mapping", "pack:refusal", "secret_leak", "--sae", "llama-scope")
    assert code == 0
    features = yaml.safe_load(out)["features"]
    assert list(features) == ["fiction", "harmful_request", "refusal", "secret_disclosure"]
    assert features["refusal"]["sae"]["release"] == "llama_scope_lxr_8x"


def test_unknown_pack_is_refused_with_the_likely_one(run):
    code, _, err = run("mapping", "refusals", "--sae", "goodfire")
    assert code == 2
    assert "unknown pack 'refusals', did you mean 'refusal'?" in err


def test_every_release_with_notes_can_be_chosen():
    assert list(Release) == releases()
