"""What the package exports, and what it must not import."""

import subprocess
import sys

import pytest

import saeguard.rules
from saeguard.rules import Phase


def test_exports_are_sorted_and_exist():
    names = saeguard.rules.__all__
    assert names == sorted(names)
    assert all(hasattr(saeguard.rules, name) for name in names)


def test_importing_it_imports_no_model_library_and_no_other_package_of_ours():
    code = "import saeguard.rules, sys; print(*sys.modules)"
    output = subprocess.run([sys.executable, "-Ic", code], capture_output=True, text=True).stdout
    loaded = set(output.split())
    unwanted = {"torch", "transformers", "vllm", "saeguard.monitor", "saeguard.integrations"}
    assert "saeguard.rules" in loaded
    assert not loaded & unwanted


def test_phases_are_named_in_lower_case_and_coded_from_zero():
    assert [Phase.parse(str(phase)) for phase in Phase] == [0, 1, 2, 3, 4]
    assert str(Phase.TOOL_CALL) == "tool_call"
    with pytest.raises(ValueError, match="unknown phase 'answers'"):
        Phase.parse("answers")
